package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/plugins/kit"
)

// swapConfig says how the plugin of the swap tests behaves.
type swapConfig struct {
	// Mode is one of those below; empty: it does its work.
	Mode string `json:"mode"`
	// Mark tells revisions apart.
	Mark string `json:"mark"`
	// Listen is a TCP address at which it answers with its mark.
	Listen string `json:"listen"`
}

// swapRules are what it needs, but with the argument "rules".
var swapRules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}

// swapPlugin is the plugin of the swap tests.
func swapPlugin(name string) kit.Plugin {
	return kit.Plugin{
		Name: name, Kind: "example", Version: "1", Description: "Behaves as told.",
		Rules: swapRules,
		ConfigSchema: `{"type":"object","additionalProperties":false,"properties":
			{"mode":{"type":"string"},"mark":{"type":"string"},"listen":{"type":"string"}}}`,
		InProcess: true, New: newSwapper,
	}
}

// swapMain is its process; how says what it is before it says who it is.
func swapMain(name, how string) {
	p := swapPlugin(name)
	switch how {
	case "exit":
		fmt.Fprintln(os.Stderr, "this will not do")
		os.Exit(4)
	case "version":
		if err := versionsMain("99", name); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case "name":
		p.Name = "somebody-else"
	case "rules":
		p.Rules = []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"nodes"}}}
	case "kind":
		p.Kind = "another"
	}
	kit.Main(p)
}

func newSwapper(env *kit.Env) (kit.Runner, error) {
	var c swapConfig
	if err := env.Decode(&c); err != nil {
		return nil, err
	}
	s := &swapper{env: env, swapConfig: c}
	switch c.Mode {
	case "error":
		return nil, errors.New("this machine is not good enough")
	case "invalid":
		return nil, kit.FieldErrors(field.ErrorList{field.Invalid(field.NewPath("mode"), c.Mode, "just so")})
	case "hang":
		s.note("hanging")
		<-env.Process.Done() // the process ends by force
		<-make(chan int)
	case "eat":
		eat()
	case "stubborn-new":
		s.note("hanging")
		s.told(context.Background(), "let-go")
	}
	return s, nil
}

// eat takes memory until the process is killed.
func eat() {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		_ = all
	}
}

// swapper is what it runs.
type swapper struct {
	env *kit.Env
	swapConfig
}

// note appends a line to the ledger: who acts, and when it ends.
func (s *swapper) note(what string) {
	file, err := os.OpenFile(filepath.Join(s.env.DataDir, "ledger"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer func() { _ = file.Close() }()
	fmt.Fprintf(file, "%s %s %d\n", what, s.Mark, os.Getpid())
}

// told waits for a file that a test makes.
func (s *swapper) told(ctx context.Context, file string) bool {
	for {
		if _, err := os.Stat(filepath.Join(s.env.DataDir, file)); err == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// freeze stops the process. The signal may reach this thread after the others.
func freeze() error {
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	<-make(chan int)
	return nil
}

// Warm implements kit.WarmStandby.
func (s *swapper) Warm(ctx context.Context, warm func()) error {
	switch s.Mode {
	case "cold": // never warm
		s.note("cold")
	case "fail":
		return errors.New("no luck in standby")
	case "wait":
		s.note("waiting")
		if !s.told(ctx, "go") {
			return nil
		}
		warm()
	case "freeze":
		return freeze()
	default:
		warm()
	}
	<-ctx.Done()
	return nil
}

// Start implements kit.Runner.
func (s *swapper) Start(ctx context.Context) error {
	s.note("begin")
	defer s.note("end")
	switch s.Mode {
	case "failed":
		return errors.New("no luck today")
	case "panic":
		panic("out of order")
	case "unready":
		s.env.Health.SetStarting("still looking for the door")
	case "gorge":
		s.env.Health.SetReady()
		eat()
	case "flood":
		line := strings.Repeat("x", 120) + "\n"
		stderr := os.NewFile(2, "stderr") // os.Stderr goes to go-plugin's own stream
		for range 32 << 20 / len(line) {
			_, _ = stderr.WriteString(line)
		}
		s.env.Health.SetReady()
		<-ctx.Done()
		runtime.KeepAlive(stderr)
		return nil
	case "degrade":
		s.env.Health.SetReady()
		if s.told(ctx, "degrade") {
			s.env.Health.SetDegraded("one leg is missing")
		}
	case "freeze-active":
		return freeze()
	case "streams":
		s.stream()
		s.env.Health.SetReady()
	case "stubborn": // ends only when a test says so
		s.env.Health.SetReady()
		s.told(context.Background(), "let-go")
		return nil
	case "stuck":
		s.env.Health.SetReady()
		<-make(chan int)
	default:
		if s.Listen != "" {
			return s.serve(ctx)
		}
		s.env.Health.SetReady()
	}
	<-ctx.Done()
	return nil
}

// serve answers each connection with the mark.
func (s *swapper) serve(ctx context.Context) error {
	l, err := s.env.Listener(ctx, "tcp", s.Listen)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	s.env.Health.SetReady()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		fmt.Fprintln(conn, s.Mark)
		_ = conn.Close()
	}
}

// swapJSON is a configuration as a spec has it.
func swapJSON(c swapConfig) json.RawMessage {
	raw, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return raw
}

var _ kit.WarmStandby = (*swapper)(nil)
