package etcd

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// telling is a storage that says "503, etcd does not answer" where upstream's gives a client the
// bare error of the connection, as an internal one.
type telling struct{ storage.Interface }

// away makes the error of a connection to the etcd one for clients. A write may have been done
// all the same, so they are not told to repeat it.
func away(err error) error {
	var code codes.Code
	if errors.Is(err, context.DeadlineExceeded) {
		return apierrors.NewTimeoutError("etcd did not answer in time", 0)
	}
	if known, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = known.Code()
	} else if s, ok := status.FromError(err); ok {
		code = s.Code()
	}
	switch code {
	case codes.Unavailable:
		return apierrors.NewServiceUnavailable("etcd does not answer: " + err.Error())
	case codes.ResourceExhausted:
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return fullError(err)
		}
		return err
	case codes.DeadlineExceeded:
		return apierrors.NewTimeoutError("etcd did not answer in time: "+err.Error(), 0)
	default:
		return err
	}
}

// fullError is what a client gets when the etcd has used up its quota; it is as of a full disk.
func fullError(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: metav1.StatusReasonInternalError,
		Message: "etcd has no space left; raise its --quota-backend-bytes, or compact, defragment and disarm its alarm: " + err.Error(),
	}}
}

// margin is how long before the end of a request the etcd is given up: a request that ends by itself breaks off its response,
// or answers without saying why.
const margin = time.Second

// early ends a little before ctx does.
func early(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, end.Add(-min(margin, time.Until(end)/4)))
}

// Create implements storage.Interface.
func (s telling) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	ctx, cancel := early(ctx)
	defer cancel()
	return away(s.Interface.Create(ctx, key, obj, out, ttl))
}

// Delete implements storage.Interface.
func (s telling) Delete(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions, validate storage.ValidateObjectFunc,
	cached runtime.Object, opts storage.DeleteOptions,
) error {
	ctx, cancel := early(ctx)
	defer cancel()
	return away(s.Interface.Delete(ctx, key, out, pre, validate, cached, opts))
}

// Get implements storage.Interface.
func (s telling) Get(ctx context.Context, key string, opts storage.GetOptions, obj runtime.Object) error {
	ctx, cancel := early(ctx)
	defer cancel()
	return away(s.Interface.Get(ctx, key, opts, obj))
}

// GetList implements storage.Interface.
func (s telling) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	ctx, cancel := early(ctx)
	defer cancel()
	return away(s.Interface.GetList(ctx, key, opts, list))
}

// GuaranteedUpdate implements storage.Interface.
func (s telling) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, pre *storage.Preconditions,
	update storage.UpdateFunc, cached runtime.Object,
) error {
	ctx, cancel := early(ctx)
	defer cancel()
	return away(s.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, pre, update, cached))
}
