package store

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDamageAtRandom spoils files of a killed store at random places. The store has to be whole, or to refuse and to
// name what is wrong; it may neither serve less than it acknowledged, nor crash, nor hang.
func TestDamageAtRandom(t *testing.T) {
	cases := times(t, 200, 20, 10000)
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("KEELSON_SEED"), 10, 64); err == nil {
		seed = s
	}
	// Small memtables leave many tables and a long manifest; those of usual size a large write-ahead log.
	for _, memTable := range []string{"", fmt.Sprint(512 << 10)} {
		t.Run("memtable "+memTable, func(t *testing.T) {
			cases := cases
			r := rand.New(rand.NewPCG(seed, uint64(len(memTable))))
			template, acks := makeTemplate(t, memTable)
			j := &judgeMany{t: t, acks: acks, memTable: memTable}
			defer j.stop()
			counts := map[string]int{}
			if memTable == "" {
				cases /= 4 // its files are large
			}
			for i := range cases {
				dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
				copyDir(t, template, dir)
				what := spoil(t, r, dir)
				checked := ""
				if i%4 == 0 {
					checked = j.judge("check " + dir)
				}
				got := j.judge(dir)
				word, _, _ := strings.Cut(got, " ")
				if checked != "" && !strings.HasPrefix(checked, word) {
					t.Errorf("case %d of seed %d, %s: the check says %q, opening %q", i, seed, what, checked, got)
				}
				counts[word]++
				switch {
				case word != "whole" && word != "damaged":
					t.Errorf("case %d of seed %d, %s: got %q, want the store whole or damaged", i, seed, what, got)
				case word == "damaged" && (!strings.Contains(got, dir) || !strings.Contains(got, "Restore the data directory")):
					t.Errorf("case %d of seed %d, %s: %q names no file, or not what to do", i, seed, what, got)
				case word == "damaged" && i%8 == 0: // and it stays so
					if again := j.judge(dir); !strings.HasPrefix(again, "damaged") {
						t.Errorf("case %d of seed %d, %s: first %q, when opened again %q", i, seed, what, got, again)
					}
				}
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("seed %d: %v", seed, counts)
			if !testing.Short() && (counts["whole"] == 0 || counts["damaged"] == 0) {
				t.Error("all cases ended alike, which shows nothing")
			}
		})
	}
}

// spoil damages one file, seldom two, and tells what it did.
func spoil(t *testing.T, r *rand.Rand, dir string) string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"HEAD", "badger/MANIFEST", "badger/KEYREGISTRY", "badger/*.sst", "badger/*.mem", "badger/*.vlog", "badger/DISCARD"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) == 0 {
			continue
		}
		files = append(files, found[r.IntN(len(found))])
	}
	var did []string
	for n := 1 + r.IntN(8)/7; n > 0; n-- {
		path := files[r.IntN(len(files))]
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		what, data := garble(r, data)
		did = append(did, filepath.Base(path)+": "+what)
		f, err := os.Create(path)
		if err == nil {
			err = copySparse(bytes.NewReader(data), f)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(did, ", ")
}

// garble changes bytes in one of the ways that disks, file systems and people have.
func garble(r *rand.Rand, data []byte) (string, []byte) {
	n := used(data)
	if r.IntN(10) == 0 {
		n = len(data) // the unused end too
	}
	if n == 0 {
		return "bytes added to an empty file", append(data, "garbage"...)
	}
	at := r.IntN(n)
	length := min(1+r.IntN(1<<r.IntN(14)), n-at)
	switch r.IntN(6) {
	case 0:
		data[at] ^= 1 << r.IntN(8)
		return fmt.Sprintf("bit of byte %d of %d flipped", at, n), data
	case 1:
		return fmt.Sprintf("cut to %d of %d bytes", at, n), data[:at]
	case 2:
		clear(data[at : at+length])
		return fmt.Sprintf("%d bytes from %d of %d zeroed", length, at, n), data
	case 3:
		for i := at; i < at+length; i++ {
			data[i] = byte(r.Uint32())
		}
		return fmt.Sprintf("%d bytes from %d of %d random", length, at, n), data
	case 4:
		from := r.IntN(n - length + 1)
		copy(data[at:at+length], data[from:from+length])
		return fmt.Sprintf("%d bytes copied from %d to %d of %d", length, from, at, n), data
	}
	data = append(data[:at], data[at+length:]...)
	return fmt.Sprintf("%d bytes removed at %d of %d", length, at, n), data
}

// judgeLimit is how long a child may take for one directory. It takes less than a second.
const judgeLimit = 3 * time.Minute

// judgeMany is a child that judges one directory after the other.
type judgeMany struct {
	t              *testing.T
	acks, memTable string

	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  *bufio.Reader
	stderr *bytes.Buffer
}

func (j *judgeMany) start() {
	j.cmd = child(j.t, "verify many", "", j.acks)
	j.cmd.Env = append(j.cmd.Env, childMemTable+"="+j.memTable, "GOTRACEBACK=all")
	j.stderr = &bytes.Buffer{}
	j.cmd.Stderr = j.stderr // shown with what was damaged
	out, err := j.cmd.StdoutPipe()
	if err == nil {
		j.in, err = j.cmd.StdinPipe()
	}
	if err == nil {
		err = j.cmd.Start()
	}
	if err != nil {
		j.t.Fatal(err)
	}
	j.lines = bufio.NewReader(out)
}

func (j *judgeMany) judge(dir string) string {
	if j.cmd == nil {
		j.start()
	}
	// SIGQUIT makes it tell where each goroutine is.
	hung := time.AfterFunc(judgeLimit, func() { _ = j.cmd.Process.Signal(syscall.SIGQUIT) })
	fmt.Fprintln(j.in, dir)
	line, err := j.lines.ReadString('\n')
	if !hung.Stop() {
		return fmt.Sprintf("hung for %s: %v %s; its goroutines:\n%s", judgeLimit, err, line, j.stop())
	}
	if err != nil {
		return fmt.Sprintf("crashed: %v %s\n%s", err, line, j.stop())
	}
	if strings.Contains(line, "Badger stopped") {
		j.stop() // it panicked as it opened and has left goroutines, which must not disturb the next case
	}
	return strings.TrimSpace(line)
}

// stop ends the child and returns what it said on stderr.
func (j *judgeMany) stop() string {
	if j.cmd == nil {
		return ""
	}
	j.in.Close()
	_ = j.cmd.Wait()
	j.cmd = nil
	return j.stderr.String()
}
