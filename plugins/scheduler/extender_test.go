package scheduler

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"keelson.dev/keelson/plugins/kit/kittest"
)

// extended makes a cache with nodes a, b and c and a profile with extenders at url.
func extended(t *testing.T, url string, change ...func(*schedulerv1.Extender)) (*nodeCache, *profile) {
	t.Helper()
	var in []schedulerv1.Extender
	for _, f := range change {
		e := schedulerv1.Extender{URLPrefix: url, FilterVerb: "filter"}
		f(&e)
		in = append(in, e)
	}
	x, err := newExtenders(in, kittest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	c := newCache()
	for _, name := range []string{"a", "b", "c"} {
		c.setNode(newNode(name, "4", "4Gi"))
	}
	pr := defaultProfile("default-scheduler", 0)
	pr.parts = []part{x}
	return c, pr
}

// TestExtenders speaks with a real HTTP server.
func TestExtenders(t *testing.T) {
	var mu sync.Mutex
	var bound []string
	names := func(a *extenderv1.ExtenderArgs) (out []string) {
		if a.NodeNames != nil {
			return *a.NodeNames
		}
		for i := range a.Nodes.Items {
			out = append(out, a.Nodes.Items[i].Name)
		}
		return out
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(x any) { _ = json.NewEncoder(w).Encode(x) }
		if r.URL.Path == "/bind" {
			var b extenderv1.ExtenderBindingArgs
			_ = json.NewDecoder(r.Body).Decode(&b)
			mu.Lock()
			defer mu.Unlock()
			bound = append(bound, b.PodName+" "+b.Node)
			answer(extenderv1.ExtenderBindingResult{Error: map[bool]string{true: "no room"}[b.PodName == "unlucky"]})
			return
		}
		var a extenderv1.ExtenderArgs
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/filter": // not a
			result := extenderv1.ExtenderFilterResult{FailedNodes: extenderv1.FailedNodesMap{}}
			var left []string
			for _, n := range names(&a) {
				if n == "a" {
					result.FailedNodes[n] = "node(s) are called a"
				} else {
					left = append(left, n)
				}
			}
			if a.NodeNames != nil {
				result.NodeNames = &left
			} else {
				result.Nodes = &corev1.NodeList{}
				for _, n := range a.Nodes.Items {
					if n.Name != "a" {
						result.Nodes.Items = append(result.Nodes.Items, n)
					}
				}
			}
			answer(result)
		case "/none":
			answer(extenderv1.ExtenderFilterResult{FailedAndUnresolvableNodes: extenderv1.FailedNodesMap{"a": "never", "b": "never", "c": "never"}})
		case "/prefer": // c
			var list extenderv1.HostPriorityList
			for _, n := range names(&a) {
				list = append(list, extenderv1.HostPriority{Host: n, Score: map[bool]int64{true: 10}[n == "c"]})
			}
			answer(list)
		case "/strange":
			answer(extenderv1.ExtenderFilterResult{NodeNames: &[]string{"z"}})
		default:
			http.Error(w, "what?", http.StatusTeapot)
		}
	}))
	defer srv.Close()
	type change = func(*schedulerv1.Extender)
	prefer := func(e *schedulerv1.Extender) { e.PrioritizeVerb, e.Weight = "prefer", 100 }
	cached := func(e *schedulerv1.Extender) { e.NodeCacheCapable = true }
	verb := func(v string) change { return func(e *schedulerv1.Extender) { e.FilterVerb = v } }
	broken := func(ignorable bool) change {
		return func(e *schedulerv1.Extender) { e.FilterVerb, e.Ignorable = "teapot", ignorable }
	}
	both := func(all ...change) change {
		return func(e *schedulerv1.Extender) {
			for _, f := range all {
				f(e)
			}
		}
	}
	gpus := func(e *schedulerv1.Extender) {
		e.FilterVerb, e.ManagedResources = "none", []schedulerv1.ExtenderManagedResource{{Name: "example.com/gpu"}}
	}
	for _, tt := range []struct {
		name       string
		extenders  []change
		pod        *corev1.Pod
		want       string // nodes that may be chosen
		message    string
		wantsError bool
	}{
		{name: "filter and prioritize", extenders: []change{prefer}, pod: newPod("p"), want: "c"},
		{name: "by names", extenders: []change{both(prefer, cached)}, pod: newPod("p"), want: "c"},
		{name: "one after the other", extenders: []change{cached, both(verb(""), prefer)}, pod: newPod("p"), want: "c"},
		{name: "filtered", extenders: []change{func(*schedulerv1.Extender) {}}, pod: newPod("p"), want: "bc"},
		{name: "none is left", extenders: []change{verb("none")}, pod: newPod("p"), message: "0/3 nodes are available: 3 never."},
		{name: "fails", extenders: []change{broken(false)}, pod: newPod("p"), wantsError: true},
		{name: "fails, ignorable", extenders: []change{broken(true), prefer}, pod: newPod("p"), want: "c"},
		{name: "invents a node", extenders: []change{both(cached, verb("strange"))}, pod: newPod("p"), wantsError: true},
		{name: "not interested", extenders: []change{gpus}, pod: newPod("p"), want: "abc"},
		{name: "interested", extenders: []change{gpus}, pod: newPod("p", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse("0")}
		}), message: "0/3 nodes are available: 3 never."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, pr := extended(t, srv.URL, tt.extenders...)
			d := c.decide(t.Context(), newPodInfo(tt.pod), pr)
			if tt.wantsError != (d.err != nil) {
				t.Fatalf("error %v, want one: %t", d.err, tt.wantsError)
			}
			if tt.wantsError {
				return
			}
			if !strings.HasPrefix(d.message, tt.message) || (tt.message == "") != (d.message == "") || tt.want != "" && (d.node == "" || !strings.Contains(tt.want, d.node)) {
				t.Errorf("got node %q, message %q; want one of %q, %q", d.node, d.message, tt.want, tt.message)
			}
		})
	}
	c, pr := extended(t, srv.URL, func(e *schedulerv1.Extender) { e.BindVerb = "bind" })
	for _, name := range []string{"lucky", "unlucky"} {
		p := newPod(name)
		d := c.decide(t.Context(), newPodInfo(p), pr)
		done, err := d.parts[0].state.(partBinder).bind(t.Context(), p, d.node)
		if !done || (err != nil) != (name == "unlucky") {
			t.Errorf("%s: bound %t, %v", name, done, err)
		}
		if want := fmt.Sprint(name, " ", d.node); bound[len(bound)-1] != want {
			t.Errorf("the extender was told %q, want %q", bound, want)
		}
	}
}
