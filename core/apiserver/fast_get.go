package apiserver

import (
	"context"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/store"
)

// getHandler encodes answers from the store's own objects, where nothing but the
// encoder sees them: not the audit log, which takes fields out, and not who makes
// tables of them, or leaves metadata only.
func getHandler(getter rest.Getter, scope *handlers.RequestScope, audited bool) http.HandlerFunc {
	plain := handlers.GetResource(getter, scope)
	if audited {
		return plain
	}
	lending := handlers.GetResource(lendingGetter{getter}, scope)
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "as") { // no media type that is served has it in its name
			plain(w, r)
			return
		}
		lending(w, r)
	}
}

// lendingGetter returns objects that may only be encoded.
type lendingGetter struct{ rest.Getter }

// Get implements rest.Getter.
func (g lendingGetter) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	var l store.Loan
	obj, err := g.Getter.Get(store.WithLoan(ctx, &l), name, options)
	if err == nil && l.Object != nil {
		return l.Object, nil
	}
	return obj, err
}
