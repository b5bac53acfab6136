package store

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// change is one way to spoil a file.
type change struct {
	name  string
	apply func(path string, data []byte) error
}

func rewrite(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }

// used returns the length without trailing zeros: write-ahead logs are allocated ahead.
func used(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

func flip(at func(n int) int) func(string, []byte) error {
	return func(path string, data []byte) error {
		n := used(data)
		if n == 0 {
			return rewrite(path, data)
		}
		data[max(0, min(at(n), n-1))] ^= 0x5a
		return rewrite(path, data)
	}
}

func cut(at func(n int) int) func(string, []byte) error {
	return func(path string, data []byte) error { return rewrite(path, data[:max(0, at(used(data)))]) }
}

var changes = []change{
	{"missing", func(path string, _ []byte) error { return os.Remove(path) }},
	{"empty", cut(func(int) int { return 0 })},
	{"cut by one byte", cut(func(n int) int { return n - 1 })},
	{"cut in the middle", cut(func(n int) int { return n / 2 })},
	{"cut to ten bytes", cut(func(n int) int { return min(10, n) })},
	{"first byte flipped", flip(func(int) int { return 0 })},
	{"byte 12 flipped", flip(func(int) int { return 12 })},
	{"byte 30 flipped", flip(func(int) int { return 30 })},
	{"a third in flipped", flip(func(n int) int { return n / 3 })},
	{"middle flipped", flip(func(n int) int { return n / 2 })},
	{"near the end flipped", flip(func(n int) int { return n - 6 })},
	{"last byte flipped", flip(func(n int) int { return n - 1 })},
	{"middle zeroed", func(path string, data []byte) error {
		n := used(data)
		clear(data[n/2 : min(n, n/2+4096)])
		return rewrite(path, data)
	}},
	{"garbage appended", func(path string, data []byte) error {
		return rewrite(path, append(data[:used(data):len(data)], "garbage garbage garbage garbage"...))
	}},
}

// TestDamage spoils each file of a killed store in each way. The store has to refuse, or to have everything.
func TestDamage(t *testing.T) {
	template, acks := makeTemplate(t, "")
	files, err := filepath.Glob(filepath.Join(template, "*"))
	if err != nil {
		t.Fatal(err)
	}
	inner, err := filepath.Glob(filepath.Join(template, "badger", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if got := verdict(t, template, acks, nil, ""); got != "whole" {
		t.Fatalf("undamaged store: %s", got)
	}
	for _, path := range append(files, inner...) {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		rel, _ := filepath.Rel(template, path)
		for i, c := range changes {
			if testing.Short() && i%4 != 0 {
				continue
			}
			t.Run(rel+"/"+c.name, func(t *testing.T) {
				got := verdict(t, template, acks, c.apply, rel)
				if got != "whole" && !strings.HasPrefix(got, "damaged ") {
					t.Errorf("got %q, want the store whole or ErrDamaged", got)
				}
				t.Log(got)
				must := rel == "badger/MANIFEST" && c.name == "missing"
				if must && !strings.Contains(got, "badger/MANIFEST: the file is missing") {
					t.Errorf("got %q, want the missing file named", got)
				}
			})
		}
	}
}

// makeTemplate returns the directory of a killed store, and a file with what it acknowledged.
func makeTemplate(t *testing.T, memTable string) (dir, acks string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "template")
	acks = filepath.Join(t.TempDir(), "acks")
	cmd := child(t, "template", dir, acks)
	cmd.Env = append(cmd.Env, childMemTable+"="+memTable)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "error") {
			t.Fatalf("template: %q, %v", line, err)
		}
		if line == "done\n" {
			break
		}
		said.WriteString(line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := os.WriteFile(acks, []byte(said.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, acks
}

// verdict copies the template, spoils one file, and lets a child judge.
func verdict(t *testing.T, template, acks string, apply func(string, []byte) error, rel string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	copyDir(t, template, dir)
	if apply != nil {
		path := filepath.Join(dir, rel)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := apply(path, data); err != nil {
			t.Fatal(err)
		}
	}
	first := judge(t, dir, acks)
	// What is damaged has to stay damaged: opening must not mend it into something that is served.
	second := judge(t, dir, acks)
	if strings.HasPrefix(first, "damaged ") != strings.HasPrefix(second, "damaged ") {
		t.Errorf("first %q, when opened again %q", first, second)
	}
	return first
}

func judge(t *testing.T, dir, acks string) string {
	t.Helper()
	cmd := child(t, "verify", dir, acks)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		line, _, _ := strings.Cut(said.String(), "\n")
		return "crashed: " + line
	}
	return strings.TrimSpace(string(out))
}

// copyDir copies files with their holes: a write-ahead log is 32 MiB of mostly nothing.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		src, err := os.Open(path)
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.Create(target)
		if err != nil {
			return err
		}
		defer dst.Close()
		return copySparse(src, dst)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copySparse(src io.Reader, dst *os.File) error {
	buf := make([]byte, 64<<10)
	var at int64
	for {
		n, err := io.ReadFull(src, buf)
		if used(buf[:n]) > 0 {
			if _, err := dst.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return dst.Truncate(at)
		}
		if err != nil {
			return err
		}
	}
}
