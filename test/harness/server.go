package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/store"
)

// readyTime is how long a server may take until it is ready. It takes 0.2 s; the
// machine may be busy.
const readyTime = 60 * time.Second

// Options say how a server is started. All may be left zero but Dir and Log, which
// Start fills in.
type Options struct {
	// Dir holds the keys and the store. A server on the folder of one that has ended
	// goes on with its objects.
	Dir string
	// Addr is where to listen. Default: a port of 127.0.0.1 that the system chooses.
	Addr string
	// Store are options of the store. Dir is set.
	Store store.Options
	// Change may change the configuration.
	Change func(*apiserver.Config)
	// Log takes what the server says.
	Log *slog.Logger
}

// Server is a running API server.
type Server struct {
	*apiserver.Server
	Dir    string
	PKI    *pki.Authority
	DB     *store.DB
	Admin  kubernetes.Interface // as the user admin of system:masters
	Config *rest.Config         // the same
}

// Logger says what a server logs in the test's output, if the variable
// KEELSON_TEST_LOG is set, and otherwise nowhere.
func Logger(t testing.TB) *slog.Logger {
	w := io.Discard
	if os.Getenv("KEELSON_TEST_LOG") != "" {
		w = t.Output()
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Start runs a server until the test ends.
func Start(t testing.TB, choose ...func(*Options)) *Server {
	t.Helper()
	o := Options{Dir: t.TempDir(), Log: Logger(t)}
	for _, f := range choose {
		f(&o)
	}
	s, stop, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Open runs a server until stop, which may be called again, is called.
func Open(o Options) (s *Server, stop func() error, err error) {
	authority, err := pki.Open(filepath.Join(o.Dir, "pki"))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	o.Store.Dir = filepath.Join(o.Dir, "store")
	db, err := store.Open(ctx, o.Store)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	config := apiserver.Config{
		Options: apiserver.NewOptions(), Listen: "127.0.0.1:0", AdvertiseAddress: netip.MustParseAddr("192.0.2.1"),
		PKI: authority, DB: db, Log: o.Log,
	}
	if o.Addr != "" {
		config.Listen = o.Addr
	}
	if o.Change != nil {
		o.Change(&config)
	}
	server, err := apiserver.New(config)
	if err != nil {
		cancel()
		return nil, nil, errors.Join(err, db.Close())
	}
	done := make(chan error, 1)
	go func() { done <- server.Start(ctx) }() // ends by stop
	stop = sync.OnceValue(func() error {
		cancel()
		err := <-done
		if err != nil {
			err = fmt.Errorf("API server: %w", err)
		}
		return errors.Join(err, db.Close())
	})
	select {
	case <-server.Ready():
	case err := <-done:
		done <- err
		return nil, nil, errors.Join(errors.New("the API server ended before it was ready"), stop())
	case <-time.After(readyTime):
		return nil, nil, errors.Join(fmt.Errorf("the API server is not ready after %s", readyTime), stop())
	}
	s = &Server{Server: server, Dir: o.Dir, PKI: authority, DB: db}
	if s.Config, err = s.As("admin", "system:masters"); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	if s.Admin, err = kubernetes.NewForConfig(s.Config); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return s, stop, nil
}

// Addr is the address and port that the server listens on.
func (s *Server) Addr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Address().(*net.TCPAddr).Port))
}

// As is a configuration of user name in groups, for an hour.
func (s *Server) As(name string, groups ...string) (*rest.Config, error) {
	return As(s.PKI, s.Addr(), name, groups...)
}

// As is a configuration of user name in groups for the server at addr, whose
// authority is a.
func As(a *pki.Authority, addr, name string, groups ...string) (*rest.Config, error) {
	pair, err := a.ClientPair(name, groups, time.Hour)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: "https://" + addr, QPS: -1, UserAgent: "keelson-test-" + name,
		TLSClientConfig: rest.TLSClientConfig{CAData: a.CAPEM(), CertData: pair.Certificate, KeyData: pair.PrivateKey},
	}, nil
}

// Eventually repeats f until it returns an empty string, which else says what is
// not so yet.
func Eventually(t testing.TB, what string, f func() string) {
	t.Helper()
	// Reflectors wait up to a minute before they try again after a server was away.
	const limit = 90 * time.Second
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got := f()
		if got == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not so after %s: %s", what, limit, got)
		}
		<-tick.C
	}
}
