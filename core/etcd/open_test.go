package etcd

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"keelson.dev/keelson/core/etcd/etcdtest"
	"keelson.dev/keelson/core/pki"
)

// keep writes a pair into dir and returns the paths of certificate and key.
func keep(t *testing.T, dir, name string, pair pki.KeyPair, err error) (cert, key string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for path, data := range map[string][]byte{cert: pair.Certificate, key: pair.PrivateKey} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// authority is one whose certificate is in the file ca.
func authority(t *testing.T) (a *pki.Authority, ca string) {
	t.Helper()
	a, err := pki.Open(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, a.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return a, ca
}

// TestOpenTLS opens an etcd that wants certificates with right ones, and with wrong ones that no waiting makes right.
func TestOpenTLS(t *testing.T) {
	ours, ca := authority(t)
	other, otherCA := authority(t)
	dir := t.TempDir()
	pair, err := ours.ServerPair("etcd", []string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	cert, key := keep(t, dir, "server", pair, err)
	server := etcdtest.StartTLS(t, cert, key, ca)
	pair, err = ours.ClientPair("keelson", nil, time.Hour)
	clientCert, clientKey := keep(t, dir, "client", pair, err)
	pair, err = other.ClientPair("keelson", nil, time.Hour)
	otherCert, otherKey := keep(t, dir, "other", pair, err)
	for _, tt := range []struct {
		name string
		o    Options
		want string // in the error; empty: it opens
	}{
		{"right", Options{CAFile: ca, CertFile: clientCert, KeyFile: clientKey}, ""},
		{"client certificate of a stranger", Options{CAFile: ca, CertFile: otherCert, KeyFile: otherKey}, "refuses this server"},
		{"no client certificate", Options{CAFile: ca}, "refuses this server"},
		{"etcd of a stranger", Options{CAFile: otherCA, CertFile: clientCert, KeyFile: clientKey}, "certificate signed by unknown authority"},
		{"no certificate in the file", Options{CAFile: clientKey}, "--etcd-cafile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			tt.o.Servers = []string{server.Endpoint}
			d, err := Open(ctx, tt.o)
			if err == nil {
				if _, err = d.Revision(ctx); err != nil {
					t.Error(err)
				}
				if closed := d.Close(); closed != nil {
					t.Error(closed)
				}
			}
			if ctx.Err() != nil || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestOpenRefused opens an etcd that knows users, without being one.
func TestOpenRefused(t *testing.T) {
	server := etcdtest.Start(t)
	ctx := t.Context()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, step := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(ctx, Options{Servers: []string{server.Endpoint}}); err == nil || !strings.Contains(err.Error(), "refuses this server") {
		t.Errorf("got %v", err)
	}
}

// TestOpenLater opens an etcd that comes up only after Open has said that it waits.
func TestOpenLater(t *testing.T) {
	server := etcdtest.Start(t)
	server.Stop()
	read, write := io.Pipe()
	defer read.Close()
	type result struct {
		d   *Datastore
		err error
	}
	opened := make(chan result, 1)
	go func() {
		d, err := Open(t.Context(), Options{Servers: []string{server.Endpoint}, Log: slog.New(slog.NewTextHandler(write, nil))})
		opened <- result{d, err}
	}()
	line := make([]byte, 4096)
	n, err := read.Read(line)
	if said := string(line[:n]); err != nil || !strings.Contains(said, "Etcd does not answer; waiting for it") || !strings.Contains(said, "refused") {
		t.Errorf("the log says %q, %v", said, err)
	}
	go func() { _, _ = io.Copy(io.Discard, read) }() // ends when read is closed
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	got := <-opened
	if got.err != nil {
		t.Fatal(got.err)
	}
	if err := got.d.Close(); err != nil {
		t.Error(err)
	}
}
