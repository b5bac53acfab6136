package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/pflag"

	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/store"
)

// What may keep the objects.
const (
	DatastoreBadger = "badger"
	DatastoreEtcd   = "etcd"
)

// DatastoreOptions say what keeps the objects.
type DatastoreOptions struct {
	// Kind is DatastoreBadger, the default, or DatastoreEtcd.
	Kind string
	// Etcd is for DatastoreEtcd.
	Etcd etcd.Options
}

func newDatastoreOptions() DatastoreOptions {
	return DatastoreOptions{Kind: DatastoreBadger, Etcd: etcd.Options{Prefix: etcd.DefaultPrefix, CompactionInterval: 5 * time.Minute}}
}

func (o *DatastoreOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kind, "datastore", o.Kind, "What keeps the cluster's objects: badger, in --data-dir, or etcd")
	AddEtcdFlags(fs, &o.Etcd)
	fs.DurationVar(&o.Etcd.CompactionInterval, "etcd-compaction-interval", o.Etcd.CompactionInterval, "How often the etcd's history is compacted, 0 for never")
}

// AddEtcdFlags makes the flags that say which etcd is meant, named as kube-apiserver's.
func AddEtcdFlags(fs *pflag.FlagSet, o *etcd.Options) {
	fs.StringSliceVar(&o.Servers, "etcd-servers", o.Servers, "URLs of the etcd's members, for --datastore=etcd")
	fs.StringVar(&o.CAFile, "etcd-cafile", o.CAFile, "Certificate of the authority that vouches for the etcd's members")
	fs.StringVar(&o.CertFile, "etcd-certfile", o.CertFile, "Certificate with which this server connects to the etcd")
	fs.StringVar(&o.KeyFile, "etcd-keyfile", o.KeyFile, "Private key of --etcd-certfile")
	fs.StringVar(&o.Prefix, "etcd-prefix", o.Prefix, "Path below which the objects are in the etcd")
	markPaths(fs, "etcd-cafile", "etcd-certfile", "etcd-keyfile")
}

func (o *DatastoreOptions) validate() []error {
	switch o.Kind {
	case DatastoreEtcd:
		return o.Etcd.Validate()
	case DatastoreBadger, "":
		if len(o.Etcd.Servers) > 0 {
			return []error{fmt.Errorf("--etcd-servers: goes with --datastore=%s", DatastoreEtcd)}
		}
		return nil
	}
	return []error{fmt.Errorf("--datastore %q: must be %s or %s", o.Kind, DatastoreBadger, DatastoreEtcd)}
}

// OpenDatastore opens what o says; dir is for DatastoreBadger. The caller closes it.
func OpenDatastore(ctx context.Context, o DatastoreOptions, dir string, log *slog.Logger) (Datastore, error) {
	if o.Kind == DatastoreEtcd {
		o.Etcd.Log = log
		d, err := etcd.Open(ctx, o.Etcd)
		if err != nil {
			return nil, err // not d: an interface with a nil in it
		}
		return d, nil
	}
	db, err := store.Open(ctx, store.Options{Dir: dir, Log: log})
	if err != nil {
		return nil, err
	}
	return db, nil
}
