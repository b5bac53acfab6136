package apiserver

import (
	"mime"
	"net/http"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// customResources is the server of custom resources without a fault of the
// library: a custom resource written as protobuf, which it lists as a media type
// for the sake of other kinds, ends its handler with a panic.
type customResources struct {
	*genericapiserver.GenericAPIServer
	crds *crdserver.CustomResourceDefinitions
}

var _ genericapiserver.DelegationTarget = (*customResources)(nil)

// UnprotectedHandler implements genericapiserver.DelegationTarget.
func (c *customResources) UnprotectedHandler() http.Handler {
	next := c.GenericAPIServer.UnprotectedHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if (r.Method == http.MethodPost || r.Method == http.MethodPut) && isProtobuf(r) && c.custom(r) {
			err := negotiation.NewUnsupportedMediaTypeError([]string{runtime.ContentTypeJSON, runtime.ContentTypeYAML})
			responsewriters.ErrorNegotiated(err, crdserver.Codecs, schema.GroupVersion{}, w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isProtobuf(r *http.Request) bool {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && media == runtime.ContentTypeProtobuf
}

// custom tells whether the body is to be a custom resource.
func (c *customResources) custom(r *http.Request) bool {
	info, ok := request.RequestInfoFrom(r.Context())
	if !ok || !info.IsResourceRequest || info.APIGroup == apiextensionsv1.GroupName || info.Subresource != "" && info.Subresource != "status" {
		return false
	}
	lister := c.crds.Informers.Apiextensions().V1().CustomResourceDefinitions().Lister()
	_, err := lister.Get(info.Resource + "." + info.APIGroup)
	return err == nil
}
