package apiserver

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
)

// RequestOptions bound what clients may ask for at a time, and how long it may
// take.
type RequestOptions struct {
	// PriorityAndFairness shares the server between clients by FlowSchemas and
	// PriorityLevelConfigurations. Off, there is one limit for reading and one for
	// writing requests. Default on.
	PriorityAndFairness bool
	// MaxInFlight and MaxMutatingInFlight are how many reading and writing requests
	// are served at a time; with priority and fairness, their sum is shared out.
	// Default 400 and 200.
	MaxInFlight, MaxMutatingInFlight int
	// Timeout ends a request that is not a watch or stream. Default 60 s.
	Timeout time.Duration
	// MinWatch is the shortest time that a watch without a timeout of its own is
	// served; each gets up to twice as long. Default 30 min.
	MinWatch time.Duration
	// CORSOrigins are regular expressions of the origins whose pages may ask.
	// Default none.
	CORSOrigins []string
	// HSTS are the directives of the header Strict-Transport-Security. Default none.
	HSTS []string
	// GoawayChance is the share of HTTP/2 requests after which the client is sent to
	// look for another server: for several servers behind one address. 0 to 0.02,
	// default 0.
	GoawayChance float64
	// TracingFile is a TracingConfiguration (apiserver.config.k8s.io). Default none.
	TracingFile string
}

// requestDefaults are the generic server's own.
func newRequestOptions() RequestOptions {
	return RequestOptions{
		PriorityAndFairness: true, MaxInFlight: 400, MaxMutatingInFlight: 200, Timeout: time.Minute, MinWatch: 30 * time.Minute,
	}
}

func (o *RequestOptions) addFlags(fs *pflag.FlagSet) {
	fs.BoolVar(&o.PriorityAndFairness, "enable-priority-and-fairness", o.PriorityAndFairness,
		"Share the API server between clients by FlowSchemas and PriorityLevelConfigurations; otherwise only limit requests in flight")
	fs.IntVar(&o.MaxInFlight, "max-requests-inflight", o.MaxInFlight,
		"Reading requests served at a time; added to --max-mutating-requests-inflight and shared out with priority and fairness")
	fs.IntVar(&o.MaxMutatingInFlight, "max-mutating-requests-inflight", o.MaxMutatingInFlight, "Writing requests served at a time")
	fs.DurationVar(&o.Timeout, "request-timeout", o.Timeout, "End of a request that is neither a watch nor a stream")
	fs.DurationVar(&o.MinWatch, "min-watch-timeout", o.MinWatch, "Shortest time that a watch without a timeout of its own is served")
	fs.StringSliceVar(&o.CORSOrigins, "cors-allowed-origins", nil, "Regular expressions of origins whose web pages may call the API")
	fs.StringSliceVar(&o.HSTS, "strict-transport-security-directives", nil,
		"Directives of the HSTS header, such as max-age=31536000,includeSubDomains")
	fs.Float64Var(&o.GoawayChance, "goaway-chance", 0, "Share of HTTP/2 requests after which a client reconnects, 0 to 0.02: for several servers behind one address")
	fs.StringVar(&o.TracingFile, "tracing-config-file", "", "TracingConfiguration (apiserver.config.k8s.io): where spans of requests are sent")
	markPaths(fs, "tracing-config-file")
}

func (o *RequestOptions) validate() []error {
	var errs []error
	if o.MaxInFlight < 0 || o.MaxMutatingInFlight < 0 {
		errs = append(errs, fmt.Errorf("--max-requests-inflight %d, --max-mutating-requests-inflight %d: must not be negative", o.MaxInFlight, o.MaxMutatingInFlight))
	}
	if o.PriorityAndFairness && o.MaxInFlight+o.MaxMutatingInFlight == 0 {
		errs = append(errs, fmt.Errorf("--max-requests-inflight and --max-mutating-requests-inflight are both 0: priority and fairness has nothing to share out"))
	}
	if o.Timeout < time.Second {
		errs = append(errs, fmt.Errorf("--request-timeout %s: must be at least 1s", o.Timeout))
	}
	if o.MinWatch < time.Second {
		errs = append(errs, fmt.Errorf("--min-watch-timeout %s: must be at least 1s", o.MinWatch))
	}
	if o.GoawayChance < 0 || o.GoawayChance > 0.02 {
		errs = append(errs, fmt.Errorf("--goaway-chance %g: must be from 0 to 0.02", o.GoawayChance))
	}
	// The library's own checks of the two lists, whose forms it defines.
	lists := genericoptions.NewServerRunOptions()
	lists.CorsAllowedOriginList, lists.HSTSDirectives = o.CORSOrigins, o.HSTS
	return append(errs, lists.Validate()...)
}

func (o *RequestOptions) apply(c *genericapiserver.Config) error {
	c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight = o.MaxInFlight, o.MaxMutatingInFlight
	c.RequestTimeout = o.Timeout
	c.MinRequestTimeout = int(o.MinWatch.Seconds())
	c.CorsAllowedOriginList, c.HSTSDirectives = o.CORSOrigins, o.HSTS
	c.GoawayChance = o.GoawayChance
	if o.TracingFile == "" {
		return nil
	}
	tracing := genericoptions.NewTracingOptions()
	tracing.ConfigFile = o.TracingFile
	if err := tracing.ApplyTo(nil, c); err != nil {
		return fmt.Errorf("--tracing-config-file %s: %w", o.TracingFile, err)
	}
	return nil
}
