package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// body is what one life of a plugin runs in. A session has one from its launch on.
type body interface {
	// pid of the process that the plugin runs in; 0: none was started.
	pid() int
	// id tells it from all others, also among the users of sockets.
	id() string
	// done closes when the plugin has ended.
	done() <-chan struct{}
	// endsSoon says whether it has ended, or does so in a moment: its connection breaks a
	// little before its end is seen.
	endsSoon() bool
	// ending says how it ended by itself ("exit status 1"); empty: the host ended it, or it
	// never ran. It has ended.
	ending() string
	// unset are the limits that are not in force.
	unset() error
	// kill ends it at once, and all that it left. A second call waits for the first.
	kill()
	// oomKilled says whether it ended for want of memory; valid after kill.
	oomKilled() bool
	// hangs says that it goes on although it was killed; done tells when it has ended. Only
	// what is in this process does; valid after kill.
	hangs() bool
	// inProcess says that it is in this process.
	inProcess() bool
	// String names it for people: "process 42".
	String() string
}

// open starts the plugin and connects to it. On an error nothing is left.
func (s *session) open(ctx context.Context) error {
	for _, dir := range []string{s.unit.host.runDir(s.unit.folder), s.unit.host.dataDir(s.unit.folder)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the folders of plugin %s: %w", s.unit.name, err)
		}
	}
	s.started, s.log = time.Now(), s.unit.log.writer()
	// A shadow is a process always: what ails it is not to be the kernel's.
	if run := s.unit.host.embeds(s.target.spec); run != nil && !s.unit.shades {
		return s.embed(ctx, run)
	}
	return s.launch(ctx)
}

// launched is a process of its own, with go-plugin's connection to it.
type launched struct {
	process *process
	client  *plugin.Client
	log     *logWriter
	cleaned sync.Once
	oom     bool // valid after kill
}

var _ body = (*launched)(nil)

// launch starts the program in a process and does the handshake.
func (s *session) launch(ctx context.Context) error {
	u, spec := s.unit, s.target.spec
	cmd, err := u.command(spec)
	if err != nil {
		return err
	}
	cmd = s.target.older(cmd)
	transport, err := u.host.cfg.Credentials.Transport(u.name)
	if err != nil {
		return fmt.Errorf("issue the transport certificates of plugin %s: %w", u.name, err)
	}
	clientTLS, err := transport.client(u.name)
	if err != nil {
		return err
	}
	l := &launched{process: u.newProcess(spec, cmd, transport), log: s.log}
	l.process.output = s.log
	l.client = plugin.NewClient(u.clientConfig(l.process, clientTLS, s.log))
	s.body = l
	stop := context.AfterFunc(ctx, func() { _ = l.process.Kill(ctx) }) // go-plugin's start takes no context
	defer stop()
	if s.rpc, err = l.connect(); err != nil {
		l.kill()
		return s.explain(err)
	}
	s.version = l.client.NegotiatedVersion()
	return nil
}

// connect starts the process and opens the connection. A plugin with another
// certificate than its own is found here.
func (l *launched) connect() (pluginv1.PluginServiceClient, error) {
	protocol, err := l.client.Client()
	if err != nil {
		return nil, handshakeError(err)
	}
	if err := protocol.Ping(); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	raw, err := protocol.Dispense(pluginv1.ServiceName)
	if err != nil {
		return nil, err
	}
	client, ok := raw.(pluginv1.PluginServiceClient)
	if !ok {
		return nil, errors.New("connect: the connection has no client of the plugin contract")
	}
	return client, nil
}

func (l *launched) pid() int              { return l.process.pid }
func (l *launched) id() string            { return l.process.instance }
func (l *launched) done() <-chan struct{} { return l.process.done }
func (l *launched) endsSoon() bool        { return l.process.endsSoon() }
func (l *launched) ending() string        { return l.process.ending() }
func (l *launched) unset() error          { return l.process.unset }
func (l *launched) oomKilled() bool       { return l.oom }
func (l *launched) hangs() bool           { return false }
func (l *launched) inProcess() bool       { return false }
func (l *launched) String() string        { return fmt.Sprintf("process %d", l.process.pid) }

// kill implements body; what the process left is all in its cgroup.
func (l *launched) kill() {
	l.cleaned.Do(func() {
		_ = l.process.Kill(context.Background())
		if l.process.pid != 0 {
			<-l.process.done
		}
		l.client.Kill()
		l.process.pumping.Wait()
		l.log.flush()
		l.oom = l.process.cgroup.oomKilled()
		l.process.cgroup.kill()
		l.process.cgroup.remove()
		l.process.release()
		_ = os.Remove(l.process.record)
		if l.process.socketDir != "" {
			_ = os.RemoveAll(l.process.socketDir)
		}
	})
}
