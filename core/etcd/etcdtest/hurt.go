package etcdtest

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// Freeze stops the process without ending it: connections stay, and nothing is answered.
func (s *Server) Freeze(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// Thaw lets it go on after Freeze.
func (s *Server) Thaw(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// StartCluster runs n members until the test ends.
func StartCluster(t testing.TB, n int) []*Server {
	t.Helper()
	binary, err := Find()
	check(t, err)
	var members []*Server
	var names []string
	for i := range n {
		s := &Server{binary: binary, dir: t.TempDir(), name: fmt.Sprintf("m%d", i)}
		if err := s.choosePorts(); err != nil {
			t.Fatal(err)
		}
		s.Endpoint = fmt.Sprintf("http://127.0.0.1:%d", s.ports[0])
		members, names = append(members, s), append(names, s.name+"="+s.peer())
	}
	for _, s := range members {
		s.members = strings.Join(names, ",")
		t.Cleanup(s.Stop)
		if err := s.launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range members {
		if err := s.await(); err != nil {
			t.Fatal(err)
		}
	}
	return members
}
