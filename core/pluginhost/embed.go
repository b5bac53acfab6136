package pluginhost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// Embedded runs a built-in plugin within this process: it serves the base contract on
// listener, gets sockets over its end of the handover socket, which it closes, writes its
// log to output, and returns when it and all that it began have ended: after Stop, after a
// failure (an error), and when ctx has ended, which is how it is ended at once.
type Embedded func(ctx context.Context, listener net.Listener, handover *os.File, output io.Writer) error

// embedBuffer is that of one direction of the connection in memory, in bytes.
const embedBuffer = 4 << 10

// embedded is a plugin within this process, with the connection to it.
type embedded struct {
	instance string
	cancel   context.CancelFunc
	patience time.Duration // for its end, when it is killed
	conn     *grpc.ClientConn
	lifeline *net.UnixConn // the host's end of the handover socket
	asking   sync.WaitGroup
	log      *logWriter
	ended    chan struct{}
	err      error // valid after ended
	cleaned  sync.Once
	stays    bool // did not end when it was killed; valid after kill

	mu     sync.Mutex // guards killed
	killed bool       // before it ended by itself
}

var _ body = (*embedded)(nil)

// embeds says how a plugin runs within this process; nil: in one of its own.
func (h *Host) embeds(s Spec) Embedded {
	if h.cfg.Embedded == nil || !s.BuiltIn || s.Program != "" {
		return nil
	}
	run, ok := h.cfg.Embedded(s.Name)
	if !ok {
		return nil
	}
	return run
}

// embed starts a plugin within this process and connects to it.
func (s *session) embed(ctx context.Context, run Embedded) error {
	spec := s.target.spec
	switch {
	case spec.Limits != Limits{}:
		return final(errors.New("spec.resources.limits: the plugin runs in the kernel's process (--plugins-in-process), " +
			"which has no cgroup for it: take the limits away, or the plugin out of that flag"))
	case len(spec.Args) > 0:
		return final(errors.New("spec.args: the plugin runs in the kernel's process (--plugins-in-process) " +
			"and takes none: take them away, or the plugin out of that flag"))
	}
	theirs, ours, err := socketPair()
	if err != nil {
		return fmt.Errorf("start plugin %s: %w", s.unit.name, err)
	}
	listener := bufconn.Listen(embedBuffer)
	conn, err := grpc.NewClient("passthrough:plugin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithReadBufferSize(embedBuffer), grpc.WithWriteBufferSize(embedBuffer),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		return errors.Join(fmt.Errorf("start plugin %s: %w", s.unit.name, err), theirs.Close(), ours.Close())
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // kill ends it
	e := &embedded{
		instance: strings.ToLower(rand.Text()), cancel: cancel, patience: s.unit.host.cfg.Periods.End,
		conn: conn, lifeline: ours, log: s.log, ended: make(chan struct{}),
	}
	sockets := s.unit.sockets
	e.asking.Go(func() { sockets.serve(ours, e.instance, nil) }) // ends with the connection, in kill
	go func() {                                                  // ends with the plugin; the session waits for it
		e.err = run(ctx, listener, theirs, s.log)
		_ = listener.Close() // also where it was never served: dialling ends
		close(e.ended)
	}()
	s.body, s.rpc, s.version = e, pluginv1.NewPluginServiceClient(conn), slices.Max(pluginv1.ProtocolVersions())
	return nil
}

func (e *embedded) pid() int              { return os.Getpid() }
func (e *embedded) id() string            { return e.instance }
func (e *embedded) done() <-chan struct{} { return e.ended }
func (e *embedded) unset() error          { return nil }
func (e *embedded) oomKilled() bool       { return false }
func (e *embedded) hangs() bool           { return e.stays }
func (e *embedded) inProcess() bool       { return true }
func (e *embedded) String() string {
	return fmt.Sprintf("a part of the kernel's process %d", os.Getpid())
}

func (e *embedded) endsSoon() bool {
	select {
	case <-e.ended:
		return true
	case <-time.After(endSeen):
		return false
	}
}

func (e *embedded) ending() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.killed {
		return ""
	}
	if e.err != nil {
		return e.err.Error()
	}
	return "without an error"
}

// kill implements body. A goroutine cannot be ended from outside: a plugin that does not
// end when it is told to stays, and holds up what comes after it.
func (e *embedded) kill() {
	e.cleaned.Do(func() {
		e.mu.Lock()
		select {
		case <-e.ended:
		default:
			e.killed = true
		}
		e.mu.Unlock()
		e.cancel()
		select {
		case <-e.ended:
		case <-time.After(e.patience):
			e.stays = true
		}
		_ = e.conn.Close()
		_ = e.lifeline.Close()
		e.asking.Wait()
		e.log.flush()
	})
}
