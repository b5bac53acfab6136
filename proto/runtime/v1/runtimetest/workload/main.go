// Command workload is what the containers of the runtime's suite run: one static
// program that does one thing per argument.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	args := append(os.Args[1:], "", "", "")
	if run, ok := commands[args[0]]; ok {
		run(args[1:])
		return
	}
	fmt.Fprintln(os.Stderr, "unknown command", args[0])
	os.Exit(2)
}

var commands = map[string]func([]string){
	"echo": func(a []string) { fmt.Println(a[0]) },
	"exit": func(a []string) {
		code, _ := strconv.Atoi(a[0])
		fmt.Println("out")
		fmt.Fprintln(os.Stderr, "err")
		os.Exit(code)
	},
	"sleep":  func([]string) { terminate(func() { os.Exit(0) }); time.Sleep(time.Hour) },
	"stuck":  func([]string) { signal.Ignore(syscall.SIGTERM); fmt.Println("ready"); time.Sleep(time.Hour) },
	"count":  count,
	"memory": memory,
	"cat":    func(a []string) { data, err := os.ReadFile(a[0]); check(err); os.Stdout.Write(data) },
	"ls":     list,
	"write":  func(a []string) { check(os.WriteFile(a[0], []byte(a[1]), 0o644)) },
	"env":    func(a []string) { fmt.Print(os.Getenv(a[0])) },
	"id":     id,
	"upper":  upper,
	"serve":  serve,
	"size":   size,
	"child":  child,
	"mount":  func([]string) { check(unix.Mount("t", "/tmp", "tmpfs", 0, "")) },
	"caps":   caps,
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func terminate(f func()) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-ch; f() }()
}

// count writes a number each 20 ms until it is told to end.
func count([]string) {
	terminate(func() { fmt.Println("bye"); os.Exit(0) })
	for i := 0; ; i++ {
		fmt.Println(i)
		time.Sleep(20 * time.Millisecond)
	}
}

func memory([]string) {
	var keep [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		keep = append(keep, b)
		if len(keep) > 4096 {
			os.Exit(0)
		}
	}
}

func list(a []string) {
	entries, err := os.ReadDir(a[0])
	check(err)
	for _, entry := range entries {
		fmt.Println(entry.Name())
	}
}

func id([]string) {
	groups, err := os.Getgroups()
	check(err)
	wd, err := os.Getwd()
	check(err)
	name, err := os.Hostname()
	check(err)
	fmt.Printf("uid=%d gid=%d groups=%v cwd=%s hostname=%s home=%s pid=%d\n", os.Getuid(), os.Getgid(), groups, wd, name, os.Getenv("HOME"), os.Getpid())
}

// upper answers each line in upper case.
func upper([]string) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println(strings.ToUpper(in.Text()))
	}
	fmt.Println("END")
}

// serve echoes connections to a TCP port on loopback.
func serve(a []string) {
	terminate(func() { os.Exit(0) })
	l, err := net.Listen("tcp", "127.0.0.1:"+a[0])
	check(err)
	fmt.Println("ready")
	for {
		conn, err := l.Accept()
		check(err)
		go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
	}
}

func size([]string) {
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		ws, err := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ)
		check(err)
		if ws.Col == 100 {
			fmt.Printf("size=%dx%d\n", ws.Col, ws.Row)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println("no size")
}

// child leaves a process behind that ignores signals.
func child([]string) {
	self, err := os.Executable()
	check(err)
	_, err = os.StartProcess(self, []string{filepath.Base(self), "stuck"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	check(err)
	time.Sleep(200 * time.Millisecond)
}

func caps([]string) {
	data, err := os.ReadFile("/proc/self/status")
	check(err)
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "CapEff") || strings.HasPrefix(line, "NoNewPrivs") || strings.HasPrefix(line, "Seccomp:") {
			fmt.Print(line)
		}
	}
}
