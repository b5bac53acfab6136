package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

func TestAway(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want int // 0: the error stays as it is
	}{
		{"nothing", nil, 0},
		{"refused", status.Error(codes.Unavailable, "connection refused"), http.StatusServiceUnavailable},
		{"no leader", rpctypes.ErrNoLeader, http.StatusServiceUnavailable},
		{"etcd's own timeout", rpctypes.ErrTimeout, http.StatusServiceUnavailable},
		{"the request's end, told by the connection", status.Error(codes.DeadlineExceeded, "context deadline exceeded"), http.StatusGatewayTimeout},
		{"the request's end", fmt.Errorf("get: %w", context.DeadlineExceeded), http.StatusGatewayTimeout},
		{"no space", rpctypes.ErrNoSpace, http.StatusInsufficientStorage},
		{"too many requests", rpctypes.ErrTooManyRequests, 0},
		{"the client has gone", context.Canceled, 0},
		{"not there", storage.NewKeyNotFoundError("/a", 1), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := away(tt.err)
			known, ok := errors.AsType[*apierrors.StatusError](got)
			if ok != (tt.want != 0) || ok && int(known.Status().Code) != tt.want || !ok && !errors.Is(got, tt.err) {
				t.Errorf("got %v, want code %d", got, tt.want)
			}
		})
	}
}

// never is an etcd that does not answer.
type never struct{ storage.Interface }

func (never) Get(ctx context.Context, _ string, _ storage.GetOptions, _ runtime.Object) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestGivenUpEarly wants an answer before the request is broken off.
func TestGivenUpEarly(t *testing.T) {
	for _, tt := range []struct{ request, want time.Duration }{
		{time.Minute, time.Minute - margin}, {2 * time.Second, 1500 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), tt.request)
			defer cancel()
			begun := time.Now()
			err := telling{never{}}.Get(ctx, "/a", storage.GetOptions{}, nil)
			if took := time.Since(begun); took != tt.want || ctx.Err() != nil || !apierrors.IsTimeout(err) {
				t.Errorf("of a request of %s: %v after %s, want a timeout after %s", tt.request, err, took, tt.want)
			}
		})
	}
}
