package apiserver

import (
	"errors"
	"net/http"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
)

// healthChecker is a Datastore with checks of its own.
type healthChecker interface {
	HealthChecks() (health, ready healthz.HealthChecker)
}

// addStoreChecks adds what tells that the store serves. A store that runs elsewhere is no part of
// /livez: a server that is started anew for it would only be slower to serve again.
func (s *Server) addStoreChecks(gc *genericapiserver.Config) {
	checker, ok := s.config.DB.(healthChecker)
	if !ok {
		gc.AddHealthChecks(s.storeCheck("store"), s.storeCheck("etcd")) // the latter for who asks as upstream is asked
		if disk, ok := s.config.DB.(interface{ SlowDisk() error }); ok {
			// A new start would not make the disk faster, so this is no part of /livez.
			check := healthz.NamedCheck("store-disk", func(*http.Request) error { return disk.SlowDisk() })
			gc.AddHealthzChecks(check)
			gc.AddReadyzChecks(check)
		}
		return
	}
	health, ready := checker.HealthChecks()
	gc.AddHealthzChecks(s.storeCheck("store"), health)
	gc.AddReadyzChecks(s.storeCheck("store"), health, ready)
}

// storeCheck, under a name, asks the store whether it can serve.
func (s *Server) storeCheck(name string) healthz.HealthChecker {
	return healthz.NamedCheck(name, func(*http.Request) error { return s.storage.ready() })
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
