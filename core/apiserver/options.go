package apiserver

import (
	"github.com/spf13/pflag"
)

// PathFlag is the annotation of flags whose value is a path. `keelson up` makes
// it absolute before it keeps it for the server.
const PathFlag = "keelson.dev/path"

// Options are what an operator may choose about the API server beyond addresses
// and networks. Each part is a struct of its own, in the file of what it is
// about, with addFlags and validate.
type Options struct {
	Admission AdmissionOptions

	Audit AuditOptions

	Authentication AuthenticationOptions

	Backup BackupOptions

	Datastore     DatastoreOptions
	Authorization AuthorizationOptions

	Encryption EncryptionOptions

	Plugins PluginOptions

	Requests RequestOptions

	Serving ServingOptions
}

// NewOptions gives the defaults.
func NewOptions() *Options {
	return &Options{Audit: newAuditOptions(), Authentication: newAuthenticationOptions(), Backup: newBackupOptions(), Authorization: newAuthorizationOptions(), Datastore: newDatastoreOptions(), Encryption: EncryptionOptions{Secrets: true}, Requests: newRequestOptions()}
}

// AddFlags makes the flags of `keelson server` and `keelson up` that set o; what
// o has are their defaults. Their names are those of kube-apiserver where it has the same.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	for _, part := range o.parts() {
		part.addFlags(fs)
	}
}

// Validate tells every option that cannot be meant.
func (o *Options) Validate() []error {
	var errs []error
	for _, part := range o.parts() {
		errs = append(errs, part.validate()...)
	}
	return errs
}

// parts are all of o's, each as a pointer.
func (o *Options) parts() []optionsPart {
	return []optionsPart{
		&o.Admission,

		&o.Audit,

		&o.Authentication,

		&o.Backup,

		&o.Plugins,

		&o.Datastore,
		&o.Authorization,

		&o.Encryption,

		&o.Requests,

		&o.Serving,
	}
}

// optionsPart is one field of Options.
type optionsPart interface {
	addFlags(*pflag.FlagSet)
	validate() []error
}

// markPaths says that the values of flags are paths.
func markPaths(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		if err := fs.SetAnnotation(name, PathFlag, nil); err != nil {
			panic(err) // no such flag: a mistake in this package
		}
	}
}
