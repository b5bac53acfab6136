package core

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
)

// failure takes what a handler could not do.
type failure struct{ t *testing.T }

func (f failure) Object(int, runtime.Object) { f.t.Error("an object was answered") }
func (f failure) Error(err error)            { f.t.Error(err) }

func TestPass(t *testing.T) {
	backend := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `%s %s <a href="/next">next</a>`, r.Method, r.URL.Path)
	})
	plain, secure := httptest.NewServer(backend), httptest.NewTLSServer(backend)
	defer plain.Close()
	defer secure.Close()
	for _, c := range []struct {
		name, scheme, host, method, at, path string
		status                               int
		want                                 string
	}{
		{"http", "http", plain.Listener.Addr().String(), "GET", "/proxy/a", "/a", 200, `GET /a <a href="/proxy/next">next</a>`},
		{"a certificate of nobody", "https", secure.Listener.Addr().String(), "GET", "/proxy/a", "a", 200, `GET /a <a href="/proxy/next">next</a>`},
		{"the root", "http", plain.Listener.Addr().String(), "GET", "/proxy/", "/", 200, `GET / <a href="/proxy/next">next</a>`},
		{"no path", "http", plain.Listener.Addr().String(), "GET", "/proxy", "", 301, ""},
		{"no path, HEAD", "http", plain.Listener.Addr().String(), "HEAD", "/proxy", "", 301, ""},
		{"no path, POST", "http", plain.Listener.Addr().String(), "POST", "/proxy", "", 200, "POST /"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			pass(c.scheme, c.host, c.path, failure{t}).ServeHTTP(w, httptest.NewRequest(c.method, c.at, nil))
			body, err := io.ReadAll(w.Body)
			if err != nil || w.Code != c.status || !strings.Contains(string(body), c.want) {
				t.Errorf("got %d %q, %v; want %d %q", w.Code, body, err, c.status, c.want)
			}
			if c.status == http.StatusMovedPermanently && w.Header().Get("Location") != c.at+"/" {
				t.Errorf("sent on to %q, want %q", w.Header().Get("Location"), c.at+"/")
			}
		})
	}
}
