package apiserver

import (
	"context"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/core/etcd"
)

func TestEtcdOptions(t *testing.T) {
	for want, o := range map[string]etcd.Options{
		"--etcd-servers: must name":  {},
		"--etcd-servers \"host\"":    {Servers: []string{"host"}},
		"--etcd-cafile: open /none":  {Servers: []string{"https://host:1"}, CAFile: "/none"},
		"--etcd-prefix \"registry\"": {Servers: []string{"https://host:1"}, Prefix: "registry"},
		"must both be given":         {Servers: []string{"https://host:1"}, CertFile: "/none"},
	} {
		options := DatastoreOptions{Kind: DatastoreEtcd, Etcd: o}
		found := false
		for _, err := range options.validate() {
			found = found || strings.Contains(err.Error(), want)
		}
		if !found {
			t.Errorf("%v: no error says %q", options.validate(), want)
		}
	}
	for _, wrong := range []DatastoreOptions{{Kind: "mysql"}, {Kind: DatastoreBadger, Etcd: etcd.Options{Servers: []string{"http://h:1"}}}} {
		if len(wrong.validate()) == 0 {
			t.Errorf("%+v is taken", wrong)
		}
	}
}

// TestEtcdOpenWaits opens before the etcd is there, and gives up with its context.
func TestEtcdOpenWaits(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := etcd.Open(ctx, etcd.Options{Servers: []string{"http://127.0.0.1:1"}})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1 did not answer") {
		t.Errorf("got %v", err)
	}
}
