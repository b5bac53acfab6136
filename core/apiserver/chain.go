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

// chain is the generic server's own handler chain (DefaultBuildHandlerChain), in
// its order, without the measuring of single filters: that costs a fifth of a
// small request's allocations. What is not configured (audit, tracing, CORS,
// HSTS, GOAWAY) adds nothing.
func (s *Server) chain(h http.Handler, c *genericapiserver.Config) http.Handler {
	h = s.fast.over(h)
	h = genericapifilters.WithAuthorization(h, c.Authorization.Authorizer, c.Serializer)
	h = s.withFlowControl(h, c)
	if c.FeatureGate.Enabled(genericfeatures.ConstrainedImpersonation) {
		h = impersonation.WithConstrainedImpersonation(h, c.Authorization.Authorizer, c.Serializer)
	} else {
		h = impersonation.WithImpersonation(h, c.Authorization.Authorizer, c.Serializer)
	}
	h = genericapifilters.WithAudit(h, c.AuditBackend, c.AuditPolicyRuleEvaluator, c.LongRunningFunc)
	if s.config.Options.Requests.TracingFile != "" {
		h = genericapifilters.WithTracing(h, c.TracerProvider) // after authentication: who asks decides on sampling
	}
	refused := genericapifilters.WithFailedAuthenticationAudit(genericapifilters.Unauthorized(c.Serializer), c.AuditBackend, c.AuditPolicyRuleEvaluator)
	h = genericapifilters.WithAuthentication(h, c.Authentication.Authenticator, refused,
		c.Authentication.APIAudiences, c.Authentication.RequestHeaderConfig)
	if len(c.CorsAllowedOriginList) > 0 {
		h = genericfilters.WithCORS(h, c.CorsAllowedOriginList, nil, nil, nil, "true")
	}
	h = genericapifilters.WithWarningRecorder(h) // inside the timeout, which makes it safe to use
	h = withStack(h)                             // in the goroutine that the timeout makes
	h = genericfilters.WithTimeoutForNonLongRunningRequests(h, c.LongRunningFunc)
	h = genericapifilters.WithRequestDeadline(h, c.AuditBackend, c.AuditPolicyRuleEvaluator, c.LongRunningFunc, c.Serializer, c.RequestTimeout)
	h = genericfilters.WithWaitGroup(h, c.LongRunningFunc, c.NonLongRunningRequestWaitGroup)
	h = genericfilters.WithWatchTerminationDuringShutdown(h, stopping(c.ShutdownInitiatedNotify()), c.WatchRequestWaitGroup)
	if c.GoawayChance > 0 {
		h = genericfilters.WithProbabilisticGoaway(h, c.GoawayChance)
	}
	h = genericapifilters.WithCacheControl(h)
	if len(c.HSTSDirectives) > 0 {
		h = genericfilters.WithHSTS(h, c.HSTSDirectives)
	}
	h = genericfilters.WithRetryAfter(h, c.ShutdownInitiatedNotify())
	h = s.withComeAgain(h, c.ShutdownInitiatedNotify())
	h = genericfilters.WithHTTPLogging(h)
	h = genericapifilters.WithLatencyTrackers(h)
	if c.FeatureGate.Enabled(genericfeatures.APIServingWithRoutine) {
		h = routine.WithRoutine(h, c.LongRunningFunc)
	}
	h = genericapifilters.WithRequestInfo(h, c.RequestInfoResolver)
	h = genericapifilters.WithRequestReceivedTimestamp(h)
	h = genericfilters.WithPanicRecovery(h, c.RequestInfoResolver)
	h = genericapifilters.WithAuditInit(h)
	return withOuterStack(h)
}

// stopping tells watches that the server shuts down.
type stopping <-chan struct{}

// ShuttingDown implements request.ServerShutdownSignal.
func (s stopping) ShuttingDown() <-chan struct{} { return s }
