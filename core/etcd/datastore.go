package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/storage/etcd3"

	"keelson.dev/keelson/core/store"
)

const (
	// dialTimeout is how long one try to reach the etcd may take.
	dialTimeout = 5 * time.Second
	// healthTimeout is how long a health check may take, and healthFor how long its
	// answer is given again.
	healthTimeout = 2 * time.Second
	healthFor     = time.Second
	// redialFirst and redialAtMost are the pauses between tries to reach an etcd that is gone.
	redialFirst, redialAtMost = 250 * time.Millisecond, 2 * time.Second
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
	health health

	begun     sync.Once
	compactor stoppable // begun with the first resource
}

// stoppable is upstream's compactor.
type stoppable interface {
	etcd3.Compactor
	Stop()
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
	d := &Datastore{opts: o, log: o.Log}
	secure, err := clientTLS(&o)
	if err != nil {
		return nil, err
	}
	if d.client, err = newClient(&o, secure); err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := refusal(ctx, o.Servers, secure)
		if err == nil {
			err = d.ping(ctx)
		}
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

// clientTLS is what the flags tell of TLS; nil: nothing.
func clientTLS(o *Options) (*tls.Config, error) {
	if o.CAFile == "" && o.CertFile == "" {
		return nil, nil
	}
	info := transport.TLSInfo{CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.CAFile}
	secure, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("etcd certificates (--etcd-cafile, --etcd-certfile, --etcd-keyfile): %w", err)
	}
	return secure, nil
}

func newClient(o *Options, secure *tls.Config) (*clientv3.Client, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: o.Servers, DialTimeout: dialTimeout, DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
		TLS: secure, Logger: zap.NewNop(), MaxCallRecvMsgSize: maxMessage,
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{BaseDelay: redialFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: redialAtMost}, MinConnectTimeout: dialTimeout,
			}),
			grpc.WithChainUnaryInterceptor(failFast),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	return c, nil
}

// failFast has a request that finds no etcd end, after the client's repetitions of some seconds, instead of
// waiting for it as long as the request lives.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(slices.Clip(opts), grpc.WaitForReady(false))...)
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
		return strings.Contains(err.Error(), "authentication handshake failed: tls:") || strings.Contains(err.Error(), "x509:") ||
			strings.Contains(err.Error(), "remote error: tls:")
	}
}

// Close ends the connection, which resources' storages use too: their destroy functions come
// before it.
func (d *Datastore) Close() error {
	if d.compactor != nil {
		d.compactor.Stop()
	}
	return d.client.Close()
}

// HealthChecks are those that upstream's server calls etcd and etcd-readiness. They ask
// the etcd together, and wait up to two seconds.
func (d *Datastore) HealthChecks() (health, ready healthz.HealthChecker) {
	check := func(*http.Request) error { return d.health.check(d.ping) }
	return healthz.NamedCheck("etcd", check), healthz.NamedCheck("etcd-readiness", check)
}

// health remembers how the etcd was a moment ago.
type health struct {
	mu  sync.Mutex // held while the etcd is asked: who comes meanwhile gets that answer
	at  time.Time
	err error
}

func (h *health) check(ping func(context.Context) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) < healthFor {
		return h.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	h.err = ping(ctx)
	h.at = time.Now()
	return h.err
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

// compactedKey is where API servers, upstream's and this, tell each other what is compacted.
const compactedKey = "compact_rev_key"

// Compact drops all history up to now.
func (d *Datastore) Compact(ctx context.Context) error {
	rev, err := d.Revision(ctx)
	if err == nil {
		_, err = d.client.Put(ctx, compactedKey, strconv.FormatUint(rev, 10))
	}
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
