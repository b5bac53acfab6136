package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
)

const (
	// extenderTimeout is how long an extender may take if its configuration does not say.
	extenderTimeout = 5 * time.Second
	// extenderAnswer is the largest answer read, in bytes. One with 5,000 whole nodes has 50 MB.
	extenderAnswer = 256 << 20
	// maxExtenderScore is the best score of an extender; ours is topScore.
	maxExtenderScore = extenderv1.MaxExtenderPriority
)

// extender is a webhook that filters, scores or binds (kube-scheduler's scheduler extender).
type extender struct {
	schedulerv1.Extender
	client  *http.Client
	managed map[corev1.ResourceName]bool
}

func newExtender(in *schedulerv1.Extender) (*extender, error) {
	e := &extender{Extender: *in, managed: map[corev1.ResourceName]bool{}}
	for _, r := range in.ManagedResources {
		e.managed[corev1.ResourceName(r.Name)] = true
	}
	timeout := in.HTTPTimeout.Duration
	if timeout == 0 {
		timeout = extenderTimeout
	}
	config := &rest.Config{}
	if t := in.TLSConfig; t != nil {
		config.TLSClientConfig = rest.TLSClientConfig{
			Insecure: t.Insecure, ServerName: t.ServerName, CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile,
			CertData: t.CertData, KeyData: t.KeyData, CAData: t.CAData,
		}
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("extender %s: %w", in.URLPrefix, err)
	}
	e.client = &http.Client{Transport: transport, Timeout: timeout}
	return e, nil
}

// interested says whether the extender has to do with a pod: it has if it manages no
// resources, or one that the pod asks for.
func (e *extender) interested(pod *corev1.Pod) bool {
	if len(e.managed) == 0 {
		return true
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for _, resources := range []corev1.ResourceList{list[i].Resources.Requests, list[i].Resources.Limits} {
				for name := range resources {
					if e.managed[name] {
						return true
					}
				}
			}
		}
	}
	return false
}

// call sends a request and reads the answer.
func (e *extender) call(ctx context.Context, verb string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request for extender %s: %w", e.URLPrefix, err)
	}
	to := strings.TrimRight(e.URLPrefix, "/") + "/" + verb
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("extender %s: %w", to, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return fmt.Errorf("extender %s: %w", to, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("extender %s: answered %s", to, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, extenderAnswer)).Decode(out); err != nil {
		return fmt.Errorf("answer of extender %s: %w", to, err)
	}
	return nil
}

// args are what filter and prioritize are asked with.
func (e *extender) args(pod *corev1.Pod, nodes []*corev1.Node) *extenderv1.ExtenderArgs {
	args := &extenderv1.ExtenderArgs{Pod: pod}
	if e.NodeCacheCapable {
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.Name
		}
		args.NodeNames = &names
		return args
	}
	args.Nodes = &corev1.NodeList{}
	for _, n := range nodes {
		args.Nodes.Items = append(args.Nodes.Items, *n)
	}
	return args
}

// filter says which of the nodes are left, and why others are not.
func (e *extender) filter(ctx context.Context, pod *corev1.Pod, nodes []*corev1.Node) (left []*corev1.Node, no map[string]*rejection, err error) {
	var result extenderv1.ExtenderFilterResult
	if err := e.call(ctx, e.FilterVerb, e.args(pod, nodes), &result); err != nil {
		return nil, nil, err
	}
	if result.Error != "" {
		return nil, nil, fmt.Errorf("extender %s: %s", e.URLPrefix, result.Error)
	}
	keep := map[string]bool{}
	switch {
	case e.NodeCacheCapable && result.NodeNames != nil:
		for _, name := range *result.NodeNames {
			keep[name] = true
		}
	case result.Nodes != nil:
		for i := range result.Nodes.Items {
			keep[result.Nodes.Items[i].Name] = true
		}
	}
	no = map[string]*rejection{}
	for _, n := range nodes {
		if keep[n.Name] {
			left = append(left, n)
			delete(keep, n.Name)
			continue
		}
		switch why, failed := result.FailedNodes[n.Name]; {
		case result.FailedAndUnresolvableNodes[n.Name] != "":
			no[n.Name] = rejectForGood(result.FailedAndUnresolvableNodes[n.Name])
		case failed && why != "":
			no[n.Name] = reject(why)
		default:
			no[n.Name] = reject("node(s) were turned down by extender " + e.URLPrefix)
		}
	}
	for name := range keep {
		return nil, nil, fmt.Errorf("extender %q claims a filtered node %q which is not found in the input node list", e.URLPrefix, name)
	}
	return left, no, nil
}

// extenders is the part that asks them all, in their order.
type extenders struct {
	all []*extender
	log *slog.Logger
}

var _ part = (*extenders)(nil)

// newExtenders makes the part; nil if there are none.
func newExtenders(in []schedulerv1.Extender, log *slog.Logger) (*extenders, error) {
	if len(in) == 0 {
		return nil, nil
	}
	x := &extenders{log: log}
	for i := range in {
		e, err := newExtender(&in[i])
		if err != nil {
			return nil, err
		}
		x.all = append(x.all, e)
	}
	return x, nil
}

func (x *extenders) name() string      { return "Extenders" }
func (x *extenders) filter() filterSet { return filterExtenders }

func (x *extenders) begin(p *podInfo) (partState, *rejection) {
	s := &extendersState{pod: p.pod, log: x.log}
	for _, e := range x.all {
		if e.interested(p.pod) {
			s.all = append(s.all, e)
		}
	}
	if len(s.all) == 0 {
		return nil, nil
	}
	return s, nil
}

// extendersState is one pod's attempt, with the extenders that it concerns.
type extendersState struct {
	pod *corev1.Pod
	all []*extender
	log *slog.Logger
}

var (
	_ partNarrower = (*extendersState)(nil)
	_ partBinder   = (*extendersState)(nil)
)

func (s *extendersState) fits(*nodeInfo) *rejection             { return nil }
func (s *extendersState) reserve(string) error                  { return nil }
func (s *extendersState) unreserve(string)                      {}
func (s *extendersState) preBind(context.Context, string) error { return nil }

// narrow asks every extender to filter, each with what the one before left, and then to
// score. One that may be ignored is, if it fails; scores of one that fails are left out.
func (s *extendersState) narrow(ctx context.Context, nodes []*corev1.Node) (narrowed, error) {
	out := narrowed{rejected: map[string]*rejection{}, scores: map[string]int64{}}
	for _, e := range s.all {
		if e.FilterVerb == "" || len(nodes) == 0 {
			continue
		}
		left, no, err := e.filter(ctx, s.pod, nodes)
		if err != nil {
			if !e.Ignorable {
				return narrowed{}, err
			}
			s.log.Warn("Extender skipped, as it is ignorable", "extender", e.URLPrefix, "err", err)
			continue
		}
		nodes = left
		maps.Copy(out.rejected, no)
	}
	for _, e := range s.all {
		if e.PrioritizeVerb == "" || e.Weight == 0 || len(nodes) < 2 {
			continue
		}
		var list extenderv1.HostPriorityList
		if err := e.call(ctx, e.PrioritizeVerb, e.args(s.pod, nodes), &list); err != nil {
			s.log.Warn("Extender's scores left out", "extender", e.URLPrefix, "err", err)
			continue
		}
		for _, h := range list {
			out.scores[h.Host] += h.Score * e.Weight * (topScore / maxExtenderScore)
		}
	}
	return out, nil
}

// bind lets the extender bind that does so.
func (s *extendersState) bind(ctx context.Context, pod *corev1.Pod, node string) (bool, error) {
	for _, e := range s.all {
		if e.BindVerb == "" {
			continue
		}
		var result extenderv1.ExtenderBindingResult
		err := e.call(ctx, e.BindVerb, &extenderv1.ExtenderBindingArgs{PodName: pod.Name, PodNamespace: pod.Namespace, PodUID: pod.UID, Node: node}, &result)
		if err == nil && result.Error != "" {
			err = errors.New(result.Error)
		}
		if err != nil {
			return true, fmt.Errorf("bind by extender %s: %w", e.URLPrefix, err)
		}
		return true, nil
	}
	return false, nil
}

// checkExtenders returns what is wrong with a configuration's extenders.
func checkExtenders(in []schedulerv1.Extender, path *field.Path) (errs field.ErrorList) {
	binders, managed := 0, map[string]bool{}
	for i := range in {
		e, at := &in[i], path.Index(i)
		if u, err := url.Parse(e.URLPrefix); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, field.Invalid(at.Child("urlPrefix"), e.URLPrefix, "must be a URL such as http://127.0.0.1:8080/scheduler"))
		} else if e.EnableHTTPS && u.Scheme != "https" {
			errs = append(errs, field.Invalid(at.Child("urlPrefix"), e.URLPrefix, "must begin with https:// as enableHTTPS is set"))
		}
		if e.PrioritizeVerb != "" && e.Weight <= 0 {
			errs = append(errs, field.Invalid(at.Child("weight"), e.Weight, "must have a positive weight applied to it"))
		}
		if e.PreemptVerb != "" {
			errs = append(errs, field.Forbidden(at.Child("preemptVerb"), "is not supported: extenders are not asked about preemption"))
		}
		if e.HTTPTimeout.Duration < 0 {
			errs = append(errs, field.Invalid(at.Child("httpTimeout"), e.HTTPTimeout.Duration.String(), "must not be negative"))
		}
		if e.BindVerb != "" {
			if binders++; binders > 1 {
				errs = append(errs, field.Invalid(at.Child("bindVerb"), e.BindVerb, "only one extender can implement bind"))
			}
		}
		for j, r := range e.ManagedResources {
			p := at.Child("managedResources").Index(j).Child("name")
			for _, m := range validation.IsQualifiedName(r.Name) {
				errs = append(errs, field.Invalid(p, r.Name, m))
			}
			if managed[r.Name] {
				errs = append(errs, field.Duplicate(p, r.Name))
			}
			managed[r.Name] = true
		}
		if _, err := newExtender(e); err != nil {
			errs = append(errs, field.Invalid(at.Child("tlsConfig"), field.OmitValueType{}, err.Error()))
		}
	}
	return errs
}
