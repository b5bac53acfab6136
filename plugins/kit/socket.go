package kit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// maxMessage bounds a gRPC message in bytes; CRI's own clients use the same number.
const maxMessage = 16 << 20

// ListenSocket listens on a Unix socket of mode 0600 at path, over whatever stands
// there. The socket is made under another name and then moved, so that at no moment it
// is open to others or missing. Closing the listener removes it unless a later one
// has taken its place.
func ListenSocket(path string) (net.Listener, error) {
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), listener.Close(), os.Remove(temp))
	}
	made, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), listener.Close())
	}
	return &socket{Listener: listener, path: path, made: made}, nil
}

// socket removes its path on Close if the path is still its own.
type socket struct {
	net.Listener
	path string
	made os.FileInfo
}

func (s *socket) Close() error {
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.made) {
		_ = os.Remove(s.path)
	}
	return s.Listener.Close()
}

// DialSocket is a gRPC client of the server at a Unix socket. It connects when first
// used, and again by itself within half a second of the server's return; meanwhile calls
// fail with UNAVAILABLE (use grpc.WaitForReady(true) for those that should wait). A swap of
// the server's plugin is not noticed, but by calls that its contract lets end then.
func DialSocket(path string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix:"+path, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
	}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	return conn, nil
}

// CallAgain makes a client repeat unary calls that its server ended because it was
// deactivated (see Interrupt): the next try reaches the process that took over. adjust, if
// not nil, is told the request before a repetition, and how long the call has taken.
func CallAgain(adjust func(req any, passed time.Duration)) grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, conn, options...)
		for last := time.Now(); deactivated(err) && sleep(ctx, callAgainPause); {
			if adjust != nil {
				adjust(req, time.Since(last))
				last = time.Now()
			}
			err = invoke(ctx, method, req, reply, conn, append(slices.Clip(options), grpc.WaitForReady(true))...)
		}
		return err
	})
}

// callAgainPause lets a server that hangs up do so first.
const callAgainPause = 5 * time.Millisecond

func deactivated(err error) bool {
	return status.Code(err) == codes.Unavailable && status.Convert(err).Message() == errDeactivated.Error()
}
