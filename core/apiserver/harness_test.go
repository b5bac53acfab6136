package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/pki"
)

// harness is a running server on a port of its own, with a store of its own.
type harness struct {
	*Server
	dir   string
	pki   *pki.Authority
	db    Datastore
	admin kubernetes.Interface // with a client certificate of system:masters
}

// start runs a server until the test ends. Each of choose may change its
// configuration.
func start(t testing.TB, choose ...func(*Config)) *harness {
	t.Helper()
	h, stop := startIn(t, t.TempDir(), "127.0.0.1:0", choose...)
	t.Cleanup(stop)
	return h
}

// startIn runs a server on what is in dir until stop is called.
func startIn(t testing.TB, dir, addr string, choose ...func(*Config)) (h *harness, stop func()) {
	t.Helper()
	authority, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	db, err := openTestDatastore(ctx, dir)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	config := Config{
		Options: NewOptions(), Listen: addr, AdvertiseAddress: netip.MustParseAddr("192.0.2.10"), PKI: authority, DB: db,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, f := range choose {
		f(&config)
	}
	s, err := New(config)
	if err != nil {
		cancel()
		t.Fatal(errors.Join(err, db.Close()))
	}
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Start: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	}
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatalf("Start: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("not ready after 30 s")
	}
	h = &harness{Server: s, dir: dir, pki: authority, db: db}
	h.admin = client(t, h.as(t, "admin", "system:masters"))
	return h, stop
}

func (h *harness) port() int { return h.Address().(*net.TCPAddr).Port }

// bare is a configuration without any identity.
func (h *harness) bare() *rest.Config {
	return &rest.Config{
		Host: "https://127.0.0.1:" + strconv.Itoa(h.port()), QPS: -1, UserAgent: "keelson-test",
		TLSClientConfig: rest.TLSClientConfig{CAData: h.pki.CAPEM()},
	}
}

// as is a configuration of user name in groups.
func (h *harness) as(t testing.TB, name string, groups ...string) *rest.Config {
	t.Helper()
	pair, err := h.pki.ClientPair(name, groups, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c := h.bare()
	c.CertData, c.KeyData = pair.Certificate, pair.PrivateKey
	return c
}

// with is a configuration with a bearer token.
func (h *harness) with(token string) *rest.Config {
	c := h.bare()
	c.BearerToken = token
	return c
}

func client(t testing.TB, c *rest.Config) kubernetes.Interface {
	t.Helper()
	cs, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

func dynamicClient(t testing.TB, c *rest.Config) dynamic.Interface {
	t.Helper()
	d, err := dynamic.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// eventually repeats f until it returns true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so after a minute: %s", what)
		}
		<-tick.C
	}
}
