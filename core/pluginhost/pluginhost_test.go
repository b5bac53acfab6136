package pluginhost

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	var b backoff
	want := []int{0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000}
	for i, ms := range want {
		w := time.Duration(ms) * time.Millisecond
		if got := b.next(time.Second); got > w || got < w-w/10 {
			t.Errorf("wait %d: got %s, want %s less at most a tenth", i, got, w)
		}
	}
	if got := b.next(healthyAfter); got != 0 {
		t.Errorf("after a healthy run: got %s, want 0", got)
	}
	for range 100 {
		b.next(0)
	}
	if got := b.next(0); got > backoffMax || got < backoffMax/2 {
		t.Errorf("after a hundred failures: got %s, want about %s", got, backoffMax)
	}
	b.reset()
	if got := b.next(0); got != 0 {
		t.Errorf("after reset: got %s, want 0", got)
	}
}

func TestCheckConfig(t *testing.T) {
	const schema = `{"type":"object","required":["a"],"additionalProperties":false,"properties":{
		"a":{"type":"string","enum":["x","y"]},"n":{"type":"integer","minimum":1},"list":{"type":"array","items":{"type":"string"}}}}`
	for _, c := range []struct{ name, schema, config, want string }{
		{"no config", schema, ``, ""},
		{"good", schema, `{"a":"x","n":3,"list":["p"]}`, ""},
		{"not JSON", schema, `{`, "spec.config: "},
		{"no object", schema, `"x"`, "want a JSON object"},
		{"missing", schema, `{}`, "spec.config.a: Required value"},
		{"enum", schema, `{"a":"z"}`, `spec.config.a: Invalid value: "z": should be one of [x y]`},
		{"minimum", schema, `{"a":"x","n":0}`, "spec.config.n: Invalid value: 0: should be greater than or equal to 1"},
		{"type", schema, `{"a":"x","n":"many"}`, `spec.config.n: Invalid value: "many": must be of type integer`},
		{"item", schema, `{"a":"x","list":[1]}`, "spec.config.list[0]: Invalid value: 1: must be of type string"},
		{"unknown", schema, `{"a":"x","b":1}`, "spec.config.b: the plugin knows no such field"},
		{"takes none", "", `{"a":1}`, "takes no configuration"},
		{"takes none, has none", "", `{}`, ""},
		{"schema with a reference", `{"$ref":"#/$defs/x"}`, `{"a":1}`, ""},
		{"schema that is none", `[`, `{"a":1}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := checkConfig(c.schema, json.RawMessage(c.config))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestHierarchies(t *testing.T) {
	for _, c := range []struct {
		name, mounts string
		want         []string
	}{
		{"v2", "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n", []string{"/sys/fs/cgroup"}},
		{"hybrid", `cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
`, []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"}},
		{"none", "tmpfs /tmp tmpfs rw 0 0\n\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := hierarchies(c.mounts); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestMembersAreInAllHierarchies: who has left one hierarchy has left the plugin.
func TestMembersAreInAllHierarchies(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for dir, procs := range map[string]string{a: "10\n11\n12\n", b: "12\n10\n"} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(procs), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		dirs []string
		want []int
	}{
		{"one", []string{a}, []int{10, 11, 12}},
		{"two", []string{a, b}, []int{12, 10}},
		{"one is missing", []string{a, b, "/none"}, nil},
		{"none", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := (&cgroup{dirs: c.dirs}).members(); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestRecord(t *testing.T) {
	start, err := startTime(os.Getpid())
	if err != nil || start == 0 {
		t.Fatalf("start time of this process: got %d, %v", start, err)
	}
	for name, r := range map[string]record{
		"another instance": {PID: os.Getpid(), StartTime: start, Instance: "x"},
		"no instance":      {PID: os.Getpid(), StartTime: start},
		"another start":    {PID: os.Getpid(), StartTime: start + 1, Instance: "x"},
		"init":             {PID: 1, Instance: "x"},
		"nothing":          {},
	} {
		if r.alive() {
			t.Errorf("%s: is taken for a plugin", name)
		}
	}
}

func TestLogFile(t *testing.T) {
	l := newLogFile(t.TempDir(), "p")
	defer l.close()
	w := l.writer()
	write(t, w, "one\ntw")
	write(t, w, "o\n\nthree\nunfinished")
	for _, c := range []struct {
		tail int64
		want string
	}{{-1, "one\ntwo\n\nthree\n"}, {0, ""}, {1, "three\n"}, {2, "\nthree\n"}, {4, "one\ntwo\n\nthree\n"}, {99, "one\ntwo\n\nthree\n"}} {
		r, err := l.reader(t.Context(), c.tail, false)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != c.want {
			t.Errorf("tail %d: got %q, %v, want %q", c.tail, got, err, c.want)
		}
	}
	if got := w.lastWords(true); got != "one; two; three" {
		t.Errorf("last words: got %q", got)
	}
	if got := l.writer().lastWords(true); got != "" {
		t.Errorf("last words of nothing: got %q", got)
	}
}

func TestLastWords(t *testing.T) {
	for _, c := range []struct{ name, output, want string }{
		{"error of the logger", `{"level":"INFO","msg":"a"}` + "\n" + `{"level":"ERROR","msg":"Plugin cannot go on","err":"listen: in use"}` + "\nplain\n", "Plugin cannot go on: listen: in use"},
		{"panic in Start", `{"level":"ERROR","msg":"Plugin cannot go on","err":"panic: x\ngoroutine 1 [running]:\n"}` + "\n", "Plugin cannot go on: panic: x"},
		{"panic elsewhere", "panic: boom\n\ngoroutine 7 [running]:\nmain.main()\n\tmain.go:3\nexit status 2\n", "panic: boom"},
		{"fatal error", "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1\n", "fatal error: all goroutines are asleep - deadlock!"},
		{"plain", "a\nb\nc\nd\n", "b; c; d"},
		{"quiet", `{"level":"INFO","msg":"a"}` + "\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLogFile(t.TempDir(), "p")
			defer l.close()
			w := l.writer()
			write(t, w, c.output)
			if got := w.lastWords(true); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLogFileRotates(t *testing.T) {
	l := newLogFile(t.TempDir(), "p")
	defer l.close()
	line := strings.Repeat("x", logLine-1)
	for range 2*logSize/logLine + 10 {
		l.mu.Lock()
		l.line(line) // not held to what a plugin may write
		l.mu.Unlock()
	}
	write(t, l.writer(), strings.Repeat("y", 2*logLine)+"\n")
	for _, path := range []string{l.path, l.path + ".1"} {
		info, err := os.Stat(path)
		if err != nil || info.Size() > logSize+logLine || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want at most %d bytes, mode 0600", path, info, err, logSize)
		}
	}
	r, err := l.reader(t.Context(), 1, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != strings.Repeat("y", logLine)+"\n" {
		t.Errorf("the long line: got %d bytes, %v, want %d", len(got), err, logLine+1)
	}
}

// TestFollowersDoNotHoldUp: a follower that does not read is cut off; closing ends one.
func TestFollowersDoNotHoldUp(t *testing.T) {
	l := newLogFile(t.TempDir(), "p")
	defer l.close()
	slow, err := l.reader(t.Context(), 0, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * followBuffer {
		write(t, l.writer(), fmt.Sprintln(i))
	}
	s := bufio.NewScanner(slow)
	for n := 0; s.Scan(); n++ {
		if want := fmt.Sprint(n); s.Text() != want {
			t.Fatalf("line: got %q, want %q", s.Text(), want)
		}
	}
	_ = slow.Close()
	ctx, cancel := context.WithCancel(t.Context())
	follow, err := l.reader(ctx, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if rest, err := io.ReadAll(follow); err != nil || len(rest) != 0 {
		t.Errorf("after the end of its context: got %q, %v", rest, err)
	}
	_ = follow.Close()
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}
