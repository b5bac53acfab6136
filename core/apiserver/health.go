package apiserver

import (
	"errors"
	"net/http"

	"k8s.io/apiserver/pkg/server/healthz"
)

// storeCheck asks the store whether it can serve.
func (s *Server) storeCheck() healthz.HealthChecker {
	return healthz.NamedCheck("store", func(*http.Request) error { return s.storage.ready() })
}

// readyCheck holds readiness back until the cluster's own objects are written.
func (s *Server) readyCheck() healthz.HealthChecker {
	return healthz.NamedCheck("bootstrap", func(*http.Request) error {
		select {
		case <-s.ready:
			return nil
		default:
			return errors.New("default roles, namespaces and services are still being written")
		}
	})
}
