package apiserver

import (
	"errors"
	"net/http"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
)

// healthChecker is a Datastore with checks of its own.
type healthChecker interface {
	HealthChecks() (live, ready healthz.HealthChecker, err error)
}

// addStoreChecks adds what tells that the store serves.
func (s *Server) addStoreChecks(gc *genericapiserver.Config) error {
	gc.AddHealthChecks(s.storeCheck())
	checker, ok := s.config.DB.(healthChecker)
	if !ok {
		return nil
	}
	live, ready, err := checker.HealthChecks()
	if err != nil {
		return err
	}
	gc.AddHealthChecks(live)
	gc.AddReadyzChecks(ready)
	return nil
}

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
