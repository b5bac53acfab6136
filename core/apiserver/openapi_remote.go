package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	aggregatorlisters "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
	availability "k8s.io/kube-aggregator/pkg/controllers/status/remote"
	openapiaggregator "k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	// remoteAge is how long documents of aggregated API servers are good for, and
	// remoteRetry how long one that did not answer is left in peace.
	remoteAge   = 30 * time.Second
	remoteRetry = 5 * time.Second
	// remoteTimeout bounds asking one of them.
	remoteTimeout = 10 * time.Second
	// remoteLimit bounds one of their documents; Kubernetes' own has 5 MB.
	remoteLimit = 64 << 20
	// aggregatorUser is who asks.
	aggregatorUser = "system:kube-aggregator"
)

// remoteDocuments are the OpenAPI documents of aggregated API servers. They are
// fetched when somebody asks for ours and what we have is old.
type remoteDocuments struct {
	lister   aggregatorlisters.APIServiceLister
	resolver webhook.ServiceResolver
	pair     func() (cert, key []byte)
	warn     func(msg string, args ...any)

	fetching sync.Mutex // held while asking, for one caller at a time
	mu       sync.Mutex // guards known
	known    map[string]remoteDocument
}

// remoteDocument is what an APIService's server says of its group and version.
type remoteDocument struct {
	from    string    // version of the APIService
	until   time.Time // when it is asked again
	version string
	swagger *spec.Swagger
	openapi *spec3.OpenAPI
}

func newRemoteDocuments(s *Server) *remoteDocuments {
	return &remoteDocuments{
		lister:   s.aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices().Lister(),
		resolver: s.services, pair: s.frontProxyPair, warn: s.config.Log.Warn, known: map[string]remoteDocument{},
	}
}

// version differs when any of the documents does.
func (d *remoteDocuments) version() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(d.known)) {
		b.WriteString(name + "=" + d.known[name].version + ";")
	}
	return b.String()
}

func (d *remoteDocuments) v2() []*spec.Swagger {
	d.mu.Lock()
	defer d.mu.Unlock()
	var docs []*spec.Swagger
	for _, name := range slices.Sorted(maps.Keys(d.known)) {
		if doc := d.known[name]; doc.swagger != nil {
			docs = append(docs, doc.swagger)
		}
	}
	return docs
}

func (d *remoteDocuments) v3() map[string]document3 {
	d.mu.Lock()
	defer d.mu.Unlock()
	docs := map[string]document3{}
	for name, doc := range d.known {
		if doc.openapi != nil {
			gv := helper.APIServiceNameToGroupVersion(name)
			docs["apis/"+gv.Group+"/"+gv.Version] = document3{doc.version, func() (*spec3.OpenAPI, error) { return doc.openapi, nil }}
		}
	}
	return docs
}

// refresh asks the servers whose documents are old. One that does not answer
// keeps the documents it had.
func (d *remoteDocuments) refresh(ctx context.Context) {
	all, err := d.lister.List(labels.Everything())
	if err != nil {
		return // a cache's list does not fail
	}
	remote := map[string]*apiregistrationv1.APIService{}
	for _, api := range all {
		if api.Spec.Service != nil {
			remote[api.Name] = api
		}
	}
	if d.forget(remote); len(remote) == 0 {
		return
	}
	d.fetching.Lock()
	defer d.fetching.Unlock()
	var g errgroup.Group
	for _, api := range remote {
		if old := d.get(api.Name); old.from == fromOf(api) && time.Now().Before(old.until) ||
			!helper.IsAPIServiceConditionTrue(api, apiregistrationv1.Available) {
			continue
		}
		g.Go(func() error {
			doc, err := d.fetch(ctx, api)
			age := remoteAge
			if err != nil && ctx.Err() == nil {
				d.warn("OpenAPI documents of an aggregated API cannot be fetched", "apiService", api.Name, "err", err)
				doc, age = d.get(api.Name), remoteRetry
			}
			doc.from, doc.until = fromOf(api), time.Now().Add(age)
			d.mu.Lock()
			defer d.mu.Unlock()
			if ctx.Err() == nil {
				d.known[api.Name] = doc
			}
			return nil
		})
	}
	_ = g.Wait() // none returns an error
}

// fromOf differs when another server may answer for an APIService.
func fromOf(api *apiregistrationv1.APIService) string {
	return string(api.UID) + "/" + api.ResourceVersion
}

func (d *remoteDocuments) get(name string) remoteDocument {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[name]
}

func (d *remoteDocuments) forget(but map[string]*apiregistrationv1.APIService) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.known, func(name string, _ remoteDocument) bool { return but[name] == nil })
}

// fetch asks for both versions. A server without version 3 has it made of version 2.
func (d *remoteDocuments) fetch(ctx context.Context, api *apiregistrationv1.APIService) (remoteDocument, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	path := "apis/" + api.Spec.Group + "/" + api.Spec.Version
	raw2, found2, err := d.ask(ctx, api, "/openapi/v2")
	if err != nil {
		return remoteDocument{}, err
	}
	doc := remoteDocument{}
	if found2 {
		swagger := &spec.Swagger{}
		if err := swagger.UnmarshalJSON(raw2); err != nil {
			return doc, fmt.Errorf("read /openapi/v2: %w", err)
		}
		doc.swagger = openapiaggregator.FilterSpecByPathsWithoutSideEffects(swagger, []string{"/" + path + "/"})
	}
	raw3, err := d.ask3(ctx, api, path)
	switch {
	case err != nil:
		return remoteDocument{}, err
	case raw3 != nil:
		doc.openapi = &spec3.OpenAPI{}
		if err := json.Unmarshal(raw3, doc.openapi); err != nil {
			return remoteDocument{}, fmt.Errorf("read OpenAPI of %s: %w", path, err)
		}
	case doc.swagger != nil:
		doc.openapi = openapiconv.ConvertV2ToV3(doc.swagger)
	}
	doc.version = digest(raw2, raw3)
	return doc, nil
}

// ask3 fetches version 3 of one group and version; nil: the server has none.
func (d *remoteDocuments) ask3(ctx context.Context, api *apiregistrationv1.APIService, path string) ([]byte, error) {
	raw, found, err := d.ask(ctx, api, "/openapi/v3")
	if err != nil || !found {
		return nil, err
	}
	index := handler3.OpenAPIV3Discovery{}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("read /openapi/v3: %w", err)
	}
	entry, ok := index.Paths[path]
	if !ok {
		return nil, nil
	}
	raw, found, err = d.ask(ctx, api, entry.ServerRelativeURL)
	if err != nil || !found {
		return nil, err
	}
	return raw, nil
}

// ask gets a path of the server behind an APIService.
func (d *remoteDocuments) ask(ctx context.Context, api *apiregistrationv1.APIService, path string) (body []byte, found bool, err error) {
	port := int32(443)
	if p := api.Spec.Service.Port; p != nil {
		port = *p
	}
	host, err := d.resolver.ResolveEndpoint(api.Spec.Service.Namespace, api.Spec.Service.Name, port)
	if err != nil {
		return nil, false, err
	}
	cert, key := d.pair()
	rt, err := transport.New(availability.BuildTransportConfig(nil, cert, key, api))
	if err != nil {
		return nil, false, err
	}
	u, err := url.Parse(path)
	if err != nil {
		return nil, false, err
	}
	u.Scheme, u.Host = "https", host.Host
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := transport.NewAuthProxyRoundTripper(aggregatorUser, "", []string{user.SystemPrivilegedGroup}, nil, rt).RoundTrip(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound:
		return nil, false, nil
	case http.StatusOK:
		body, err = io.ReadAll(io.LimitReader(resp.Body, remoteLimit))
		return body, err == nil, err
	default:
		return nil, false, fmt.Errorf("get %s: the server answers %s", path, resp.Status)
	}
}

func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
