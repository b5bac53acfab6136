package apiserver

import (
	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/server/flagz"
)

// flagValues answers /flagz with the API server's own flags (KEP-4828). They
// are gathered when somebody asks.
type flagValues struct{ options *Options }

var _ flagz.Reader = flagValues{}

// GetFlagz implements flagz.Reader.
func (f flagValues) GetFlagz() map[string]string {
	// To define flags writes their defaults into the options, so it is done on a copy.
	options := *f.options
	audit := *options.Audit.AuditOptions
	options.Audit.AuditOptions = &audit
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	options.AddFlags(fs)
	values := map[string]string{}
	fs.VisitAll(func(flag *pflag.Flag) { values[flag.Name] = flag.Value.String() })
	return values
}
