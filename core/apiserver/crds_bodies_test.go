package apiserver

import (
	"net/http"
	"strings"
	"testing"
)

// TestProtobufOfCustomResources writes custom resources as protobuf, which no
// server can read: that is an answer, and not the end of the handler.
func TestProtobufOfCustomResources(t *testing.T) {
	h := start(t)
	h.define(t, simpleCRD("protos"))
	s := newFidelityServer(t, h.as(t, "admin", "system:masters"))
	const path = "/apis/bulk.example/v1/namespaces/default/protos"
	for name, c := range map[string]struct {
		method, path string
		code         int
	}{
		"create":           {http.MethodPost, path, http.StatusUnsupportedMediaType},
		"update":           {http.MethodPut, path + "/a", http.StatusUnsupportedMediaType},
		"update of status": {http.MethodPut, path + "/a/status", http.StatusUnsupportedMediaType},
		"unknown resource": {http.MethodPost, "/apis/bulk.example/v1/namespaces/default/others", http.StatusNotFound},
		"unknown group":    {http.MethodPost, "/apis/none.example/v1/namespaces/default/others", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, body := s.do(t, c.method, c.path, []byte("k8s\x00"), http.Header{"Content-Type": {"application/vnd.kubernetes.protobuf"}})
			if code != c.code {
				t.Errorf("%s %s: got %d (%s), want %d", c.method, c.path, code, body, c.code)
			}
			if code == http.StatusUnsupportedMediaType && !strings.Contains(string(body), "application/json, application/yaml") {
				t.Errorf("the answer does not say what is accepted: %s", body)
			}
		})
	}
}
