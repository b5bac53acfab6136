package apiserver

import (
	"net/http"

	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	genericfeatures "k8s.io/apiserver/pkg/features"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/routine"
)

// chain is the generic server's own handler chain (DefaultBuildHandlerChain),
// in its order, without what is not configured here: tracing, latency of single
// filters, audit, CORS, HSTS, GOAWAY, priority and fairness. The first two cost
// a fifth of a small request's allocations even when they do nothing.
func chain(h http.Handler, c *genericapiserver.Config) http.Handler {
	h = genericapifilters.WithAuthorization(h, c.Authorization.Authorizer, c.Serializer)
	h = genericfilters.WithMaxInFlightLimit(h, c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight, c.LongRunningFunc)
	if c.FeatureGate.Enabled(genericfeatures.ConstrainedImpersonation) {
		h = impersonation.WithConstrainedImpersonation(h, c.Authorization.Authorizer, c.Serializer)
	} else {
		h = impersonation.WithImpersonation(h, c.Authorization.Authorizer, c.Serializer)
	}
	h = genericapifilters.WithAuthentication(h, c.Authentication.Authenticator, genericapifilters.Unauthorized(c.Serializer),
		c.Authentication.APIAudiences, c.Authentication.RequestHeaderConfig)
	h = genericapifilters.WithWarningRecorder(h) // inside the timeout, which makes it safe to use
	h = genericfilters.WithTimeoutForNonLongRunningRequests(h, c.LongRunningFunc)
	h = genericapifilters.WithRequestDeadline(h, nil, nil, c.LongRunningFunc, c.Serializer, c.RequestTimeout)
	h = genericfilters.WithWaitGroup(h, c.LongRunningFunc, c.NonLongRunningRequestWaitGroup)
	h = genericfilters.WithWatchTerminationDuringShutdown(h, stopping(c.ShutdownInitiatedNotify()), c.WatchRequestWaitGroup)
	h = genericapifilters.WithCacheControl(h)
	h = genericfilters.WithRetryAfter(h, c.ShutdownInitiatedNotify())
	h = genericfilters.WithHTTPLogging(h)
	h = genericapifilters.WithLatencyTrackers(h)
	if c.FeatureGate.Enabled(genericfeatures.APIServingWithRoutine) {
		h = routine.WithRoutine(h, c.LongRunningFunc)
	}
	h = genericapifilters.WithRequestInfo(h, c.RequestInfoResolver)
	h = genericapifilters.WithRequestReceivedTimestamp(h)
	h = genericfilters.WithPanicRecovery(h, c.RequestInfoResolver)
	return genericapifilters.WithAuditInit(h)
}

// stopping tells watches that the server shuts down.
type stopping <-chan struct{}

// ShuttingDown implements request.ServerShutdownSignal.
func (s stopping) ShuttingDown() <-chan struct{} { return s }
