package kernel

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apiversion "k8s.io/apimachinery/pkg/version"

	"keelson.dev/keelson/core/version"
)

func TestCheckRelease(t *testing.T) {
	for _, tt := range []struct{ name, server, agent, want string }{
		{"the same", "v1.37.2+keelson", "v1.37.2+keelson", ""},
		{"another patch", "v1.37.9+keelson", "v1.37.2+keelson", ""},
		{"a newer server", "v1.38.0+keelson", "v1.37.2+keelson", "the server is v1.38.0+keelson, this agent is v1.37.2+keelson: install"},
		{"an older server", "v1.36.4+keelson", "v1.37.2+keelson", "the server is v1.36.4+keelson"},
		{"minor that begins alike", "v1.370.0+keelson", "v1.37.2+keelson", "the server is v1.370.0+keelson"},
		{"upstream's", "v1.37.2", "v1.37.2+keelson", `"v1.37.2", which is no Keelson`},
		{"nothing", "", "v1.37.2+keelson", `"", which is no Keelson`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := checkRelease(&apiversion.Info{GitVersion: tt.server}, tt.agent)
			if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, ErrRelease) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestAwaitRelease has a server that comes up after a while.
func TestAwaitRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		err := awaitRelease(t.Context(), slog.New(slog.DiscardHandler), func(context.Context) (*apiversion.Info, error) {
			if asked++; asked < 3 {
				return nil, errors.New("connection refused")
			}
			return &apiversion.Info{GitVersion: version.Git()}, nil
		})
		if err != nil || asked != 3 {
			t.Errorf("asked %d times, %v", asked, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = awaitRelease(ctx, slog.New(slog.DiscardHandler), func(context.Context) (*apiversion.Info, error) { return nil, errors.New("no") })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an answer: %v", err)
		}
	})
}
