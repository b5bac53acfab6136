package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/core/store"
)

const (
	// dialTimeout is how long one try to reach the etcd may take.
	dialTimeout = 5 * time.Second
	// retryAfter is the pause between tries while the etcd is not there.
	retryAfter = 2 * time.Second
	// pageSize is how many keys one request reads.
	pageSize = 500
	// maxMessage is the largest answer that is taken: a page of large objects.
	maxMessage = 1 << 30
)

// Datastore is an etcd that serves as store.
type Datastore struct {
	opts   Options
	log    *slog.Logger
	client *clientv3.Client
	stop   chan struct{} // ends the health checks
}

// Open waits until the etcd answers, and says in the log why it does not. It returns an error at once when
// waiting would not help: credentials that the etcd refuses, files that are no certificates.
func Open(ctx context.Context, o Options) (*Datastore, error) {
	if err := errors.Join(o.Validate()...); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Datastore{opts: o, log: o.Log, stop: make(chan struct{})}
	var err error
	if d.client, err = newClient(&o); err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := d.ping(ctx)
		if err == nil {
			return d, nil
		}
		if final(err) {
			return nil, errors.Join(fmt.Errorf("etcd %s refuses this server: %w", strings.Join(o.Servers, ","), err), d.Close())
		}
		if ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("etcd %s did not answer: %w", strings.Join(o.Servers, ","), err), d.Close())
		}
		level := slog.LevelWarn
		if !first {
			level = slog.LevelInfo
		}
		o.Log.Log(ctx, level, "Etcd does not answer; waiting for it", "servers", o.Servers, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
}

func newClient(o *Options) (*clientv3.Client, error) {
	var secure *tls.Config
	if o.CAFile != "" || o.CertFile != "" {
		var err error
		info := transport.TLSInfo{CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.CAFile}
		if secure, err = info.ClientConfig(); err != nil {
			return nil, fmt.Errorf("etcd certificates (--etcd-cafile, --etcd-certfile, --etcd-keyfile): %w", err)
		}
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: o.Servers, DialTimeout: dialTimeout, DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
		TLS: secure, Logger: zap.NewNop(), MaxCallRecvMsgSize: maxMessage,
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	return c, nil
}

// ping asks for a key as the registry would, so that missing rights show.
func (d *Datastore) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	_, err := d.client.Get(ctx, d.opts.prefix()+"/health", clientv3.WithCountOnly())
	return err
}

// final tells whether an error stays until somebody changes something.
func final(err error) bool {
	if errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrAuthFailed) {
		return true
	}
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return true
	default:
		return strings.Contains(err.Error(), "authentication handshake failed: tls:") || strings.Contains(err.Error(), "x509:")
	}
}

// Close ends the connection of Dump, Load and the checks. Resources' storages are ended by their
// own destroy functions.
func (d *Datastore) Close() error {
	close(d.stop)
	return d.client.Close()
}

// NewStorage opens the storage of one resource; it has the form of generic.StorageDecorator.
func (d *Datastore) NewStorage(config *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	c := *config
	c.Type = storagebackend.StorageTypeETCD3
	c.Prefix = d.opts.prefix()
	c.Transport = d.opts.transport()
	c.CompactionInterval = d.opts.CompactionInterval
	return genericregistry.StorageWithCacher()(&c, resourcePrefix, keyFunc, newFunc, newListFunc, attrs, triggers, indexers)
}

// HealthChecks are what upstream's server calls etcd (livez and readyz) and
// etcd-readiness (readyz only).
func (d *Datastore) HealthChecks() (live, ready healthz.HealthChecker, err error) {
	c := storagebackend.NewDefaultConfig(d.opts.prefix(), nil)
	c.Type, c.Transport = storagebackend.StorageTypeETCD3, d.opts.transport()
	alive, err := factory.CreateHealthCheck(*c, d.stop)
	if err != nil {
		return nil, nil, fmt.Errorf("check of etcd: %w", err)
	}
	able, err := factory.CreateReadyCheck(*c, d.stop)
	if err != nil {
		return nil, nil, fmt.Errorf("check of etcd: %w", err)
	}
	return healthz.NamedCheck("etcd", func(*http.Request) error { return alive() }),
		healthz.NamedCheck("etcd-readiness", func(*http.Request) error { return able() }), nil
}

// Dump calls begin with the revision that is dumped, then each for all objects in order
// of their keys. Writes go on meanwhile; a dump that takes longer than the etcd keeps
// its history ends with an error.
func (d *Datastore) Dump(ctx context.Context, begin func(rev uint64) error, each func(*store.Object) error) error {
	prefix := d.opts.prefix() + "/"
	end, from := clientv3.GetPrefixRangeEnd(prefix), prefix
	leases := map[int64]int64{}
	for rev := int64(0); ; {
		r, err := d.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(pageSize),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
		if err != nil {
			return fmt.Errorf("read etcd: %w", err)
		}
		if rev == 0 {
			rev = r.Header.Revision
			if err := begin(uint64(rev)); err != nil {
				return err
			}
		}
		for _, kv := range r.Kvs {
			o := &store.Object{
				Key: DefaultPrefix + string(kv.Key[len(prefix)-1:]), Value: kv.Value,
				Create: uint64(kv.CreateRevision), Mod: uint64(kv.ModRevision), Version: uint64(kv.Version),
			}
			if o.Expires, err = d.expiry(ctx, kv.Lease, leases); err != nil {
				return err
			}
			if err := each(o); err != nil {
				return err
			}
		}
		if !r.More || len(r.Kvs) == 0 {
			return nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// expiry is the second at which a lease ends.
func (d *Datastore) expiry(ctx context.Context, id int64, known map[int64]int64) (int64, error) {
	if id == 0 {
		return 0, nil
	}
	if end, ok := known[id]; ok {
		return end, nil
	}
	r, err := d.client.TimeToLive(ctx, clientv3.LeaseID(id))
	if err != nil {
		return 0, fmt.Errorf("read lease %x of etcd: %w", id, err)
	}
	known[id] = time.Now().Unix() + max(r.TTL, 1) // one that is over by now has -1
	return known[id], nil
}

// Compact drops all history up to now.
func (d *Datastore) Compact(ctx context.Context) error {
	rev, err := d.Revision(ctx)
	if err == nil {
		_, err = d.client.Compact(ctx, int64(rev))
	}
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact etcd: %w", err)
	}
	return nil
}

// Revision is the newest one.
func (d *Datastore) Revision(ctx context.Context) (uint64, error) {
	r, err := d.client.Get(ctx, d.opts.prefix()+"/health", clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("ask etcd for its revision: %w", err)
	}
	return uint64(r.Header.Revision), nil
}
