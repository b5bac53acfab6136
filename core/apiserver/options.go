package apiserver

import "github.com/spf13/pflag"

// PathFlag is the annotation of flags whose value is a path. `keelson up` makes
// it absolute before it keeps it for the server.
const PathFlag = "keelson.dev/path"

// Options are what an operator may choose about the API server beyond addresses
// and networks. Each part is a struct of its own, in the file of what it is
// about, with addFlags and validate.
type Options struct {
	Admission AdmissionOptions
}

// NewOptions gives the defaults.
func NewOptions() *Options { return &Options{} }

// AddFlags makes the flags of `keelson server` and `keelson up` that set o; what
// o has are their defaults. Their names are those of kube-apiserver where it has the same.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	o.Admission.addFlags(fs)
}

// Validate tells every option that cannot be meant.
func (o *Options) Validate() []error {
	var errs []error
	errs = append(errs, o.Admission.validate()...)
	return errs
}
