package runtime

import (
	"context"
	"errors"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keelson.dev/keelson/plugins/runtime/internal/images"
	"keelson.dev/keelson/plugins/runtime/internal/netns"
	"keelson.dev/keelson/plugins/runtime/internal/oci"
	"keelson.dev/keelson/plugins/runtime/internal/rootfs"
)

var (
	errNotFound = errors.New("not found")
	errState    = errors.New("not possible now")
)

// rpcError gives an error its gRPC code; the only place that knows codes but for
// the network's answers, which keep theirs.
func rpcError(err error) error {
	if err == nil {
		return nil
	}
	code := codes.Unknown
	var st interface{ GRPCStatus() *status.Status }
	switch {
	case errors.Is(err, errNotFound), errors.Is(err, images.ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, images.ErrInvalid), errors.Is(err, oci.ErrInvalid), errors.Is(err, netns.ErrSysctl), errors.Is(err, rootfs.ErrUnsafe):
		code = codes.InvalidArgument
	case errors.Is(err, errState):
		code = codes.FailedPrecondition
	case errors.Is(err, images.ErrUnreachable):
		code = codes.Unavailable
	case errors.Is(err, images.ErrDenied):
		code = codes.PermissionDenied
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code = codes.ResourceExhausted
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.As(err, &st):
		code = st.GRPCStatus().Code()
	}
	return status.Error(code, err.Error())
}
