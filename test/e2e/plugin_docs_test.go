package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/test/need"
)

// interactive are the commands of the pages that go on until Ctrl-C; testDev runs them.
var interactive = map[string]bool{"keelson plugins dev . --name scheduler": true}

// TestPluginDocs runs each command of docs/plugins/ on a cluster, in the order of the
// page, and wants it to print what the page shows.
func TestPluginDocs(t *testing.T) {
	m := newMachine(t, "p", "192.0.2.30")
	plug(t, m, nil)
	d := newDocs(t, m)
	m.keelson(t, "up")
	for _, page := range []string{"operating.md", "node.md", "first-plugin.md"} {
		if !t.Run(page, func(t *testing.T) { d.run(t, filepath.Join(repository, "docs/plugins", page)) }) {
			t.Logf("plugins:\n%s", must(t, m.command("keelson", "plugins", "list", "-o", "wide")))
		}
	}
	t.Run("dev", d.testDev)
	t.Run("shadow", d.testShadow)
}

// docs is a shell on a machine, in which pages are run.
type docs struct {
	*machine
	dir, plugins string
	env          []string
}

func newDocs(t *testing.T, m *machine) *docs {
	t.Helper()
	need.Program(t, "node")
	dir := t.TempDir()
	d := &docs{machine: m, dir: dir, plugins: filepath.Join(m.data, "plugins.d")}
	bin := filepath.Join(dir, "bin")
	modules, err := filepath.Abs(repository + "/.cache/node/node_modules")
	if err == nil {
		_, err = os.Stat(modules)
	}
	if err != nil {
		need.Missing(t, "the modules that scripts/setup test gets: %v", err)
	}
	programs := map[string]string{
		// keelson with the folder of this machine in place of the default.
		"keelson": "case \"$1 $2\" in 'plugins swap' | 'plugins shadow' | 'plugins dev') set -- \"$@\" --plugin-dir=" + d.plugins + ";; esac\nexec " + m.bin + " \"$@\"\n",
		"kubectl": "exec " + realKubectl(m.bin) + " \"$@\"\n",
		// npm brings the modules that were fetched before the tests.
		"npm": "[ \"$1\" = ci ] && ln -s " + modules + " node_modules\n",
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "PLUGINS=" + d.plugins, "GOPROXY=off", "GOFLAGS=-buildvcs=false"}
	return d
}

// shell is a line for the shell, in a folder.
func (d *docs) shell(dir, line string) *exec.Cmd {
	cmd := d.command("bash", "-c", line)
	cmd.Dir, cmd.Env = dir, append(cmd.Env, d.env...)
	return cmd
}

// run runs a page.
func (d *docs) run(t *testing.T, page string) {
	blocks := consoleBlocks(t, page)
	at := d.dir // where cd has led
	for _, c := range blocks {
		text := strings.ReplaceAll(c.line, "/var/lib/keelson/plugins.d", d.plugins)
		cmd := d.shell(at, text+"\nrc=$?; pwd >"+d.dir+"/.cwd; exit $rc")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.line, err, out)
		}
		cwd, err := os.ReadFile(d.dir + "/.cwd")
		if err != nil {
			t.Fatal(err)
		}
		at = strings.TrimSpace(string(cwd))
		got := strings.ReplaceAll(string(out), d.plugins, "/var/lib/keelson/plugins.d")
		if missing := absent(c.output, got); missing != "" {
			t.Errorf("%s: the page shows %q, which is not in\n%s", c.line, missing, got)
		}
	}
}

// shown is a command of a page and what the page shows of its output.
type shown struct {
	line   string
	output []string
}

// consoleBlocks are the commands of a page: in blocks of console, behind "$ ".
func consoleBlocks(t *testing.T, page string) []shown {
	t.Helper()
	file, err := os.Open(page)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var all []shown
	in := ""
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			in = strings.TrimPrefix(line, "```")
		case in == "console interactive" && isCommand:
			if !interactive[command] {
				t.Errorf("%s: %q is run by no test", page, command)
			}
		case in == "console" && isCommand:
			all = append(all, shown{line: command})
		case in == "console" && len(all) > 0:
			all[len(all)-1].output = append(all[len(all)-1].output, line)
		}
	}
	if len(all) < 5 {
		t.Fatalf("%s has %d commands: the test looks in the wrong place", page, len(all))
	}
	return all
}

var (
	spaces  = regexp.MustCompile(`\s+`)
	numbers = regexp.MustCompile(`[0-9][0-9.]*(ms|µs|s|m|h|d)?\b`)
)

// absent is the first line shown that is not in the output, after the ones before it.
// Numbers and times count as equal, and so does any space; "..." stands for anything.
func absent(want []string, got string) string {
	same := func(s string) string {
		return strings.TrimSpace(spaces.ReplaceAllString(numbers.ReplaceAllString(s, "#"), " "))
	}
	lines := strings.Split(got, "\n")
	for _, w := range want {
		if w == "..." {
			continue
		}
		var parts []string
		for part := range strings.SplitSeq(w, "...") {
			parts = append(parts, regexp.QuoteMeta(same(part)))
		}
		pattern := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
		at := slices.IndexFunc(lines, func(line string) bool { return pattern.MatchString(same(line)) })
		if at < 0 {
			return w
		}
		lines = lines[at+1:]
	}
	return ""
}

// testDev: keelson plugins dev swaps in what is built, again on a change, survives a
// change that does not build, and gives back what ran before.
func (d *docs) testDev(t *testing.T) {
	must(t, d.shell(d.dir, "keelson plugins new scheduler --kind scheduler --dir dev"))
	dir := filepath.Join(d.dir, "dev")
	source := filepath.Join(dir, "main.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	cmd := d.shell(dir, "exec keelson plugins dev . --name scheduler")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() { // ends with the command
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill()
			for range lines {
			}
			_ = cmd.Wait()
		}
	})
	wait := func(text string) {
		t.Helper()
		var seen []string
		timeout := time.After(3 * time.Minute)
		for {
			select {
			case line, more := <-lines:
				seen = append(seen, line)
				if strings.Contains(line, text) {
					return
				}
				if !more {
					t.Fatalf("it ended before %q:\n%s", text, strings.Join(seen, "\n"))
				}
			case <-timeout:
				t.Fatalf("no %q within 3 minutes:\n%s", text, strings.Join(seen, "\n"))
			}
		}
	}
	write := func(from, to string) {
		t.Helper()
		if err := os.WriteFile(source, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	version := func(want string) {
		t.Helper()
		eventually(t, time.Minute, "version "+want, func() error {
			if got := d.kubectl(t, "get", "plugin", "scheduler", "--output=jsonpath={.status.version}"); !strings.Contains(got, want) {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
	wait("dlv attach")
	version("0.1.0")
	write("package main", "package main; no go")
	wait("does not build")
	write("0.1.0", "0.2.0")
	wait("dlv attach")
	version("0.2.0")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	wait("is given back")
	for range lines {
	}
	ended = true
	if err := cmd.Wait(); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("dev: %v", err)
	}
	if got := d.kubectl(t, "get", "plugin", "scheduler", "--output=jsonpath={.spec.source}"); got != `{"builtIn":true}` {
		t.Errorf("source: got %s, want what there was", got)
	}
	if left, _ := filepath.Glob(d.plugins + "/scheduler-*"); len(left) > 1 { // that of the page
		t.Errorf("left in the plugin folder: %v", left)
	}
}
