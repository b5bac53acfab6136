package kubelet

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func logText(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "2026-01-01T00:00:%02dZ stdout F line%d\n", i, i)
	}
	return b.String()
}

func plainText(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "line%d\n", i)
	}
	return b.String()
}

func writeLog(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTailOverRotation: the last lines of a log that was just rotated are in its older parts.
func TestTailOverRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(logText(0, 5))); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	writeLog(t, path+".20260101-000000.000.gz", zipped.String())
	writeLog(t, path+".20260101-000001.000", logText(5, 10))
	tests := []struct {
		name string
		live string
		tail int64
		want string
	}{
		{"the live part suffices", logText(10, 13), 2, plainText(11, 13)},
		{"just the live part", logText(10, 13), 3, plainText(10, 13)},
		{"live part is empty", "", 2, plainText(8, 10)},
		{"two parts", logText(10, 13), 5, plainText(8, 13)},
		{"a compressed part too", logText(10, 13), 10, plainText(3, 13)},
		{"more than there is", logText(10, 13), 100, plainText(0, 13)},
		{"none", logText(10, 13), 0, ""},
		{"all", logText(10, 13), -1, plainText(0, 13)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			writeLog(t, path, tt.live)
			var out bytes.Buffer
			opts := logOptions{Tail: tt.tail, Limit: -1, Stdout: true, Stderr: true}
			if err := readLog(t.Context(), path, opts, &out, nil); err != nil || out.String() != tt.want {
				t.Errorf("got %q, %v, want %q", out.String(), err, tt.want)
			}
		})
	}
}

// TestLogInRotation: a log that is asked for while it has no live part is read when it has one.
func TestLogInRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := readLog(t.Context(), path, logOptions{Tail: -1, Limit: -1, Stdout: true}, &bytes.Buffer{}, nil); err == nil {
		t.Error("a log that never was: no error")
	}
	writeLog(t, path+".20260101-000000.000", logText(0, 2))
	reopened := time.AfterFunc(100*time.Millisecond, func() { _ = os.WriteFile(path, []byte(logText(2, 3)), 0o600) })
	defer reopened.Stop()
	var out bytes.Buffer
	if err := readLog(t.Context(), path, logOptions{Tail: -1, Limit: -1, Stdout: true}, &out, nil); err != nil || out.String() != plainText(0, 3) {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// TestFollowKeepsLastLines: what is written to a log between the reader's last look and the rotation is not lost.
func TestFollowKeepsLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	writeLog(t, path, logText(0, 1))
	looks := 0
	alive := func() bool { // called when the end of the log was seen
		if looks++; looks > 1 {
			return false
		}
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return false
		}
		defer f.Close()
		if _, err := f.WriteString(logText(1, 2)); err != nil {
			t.Error(err)
		}
		if err := os.Rename(path, path+".20260101-000000.000"); err != nil {
			t.Error(err)
		}
		writeLog(t, path, logText(2, 3))
		return true
	}
	var out bytes.Buffer
	opts := logOptions{Follow: true, Tail: 1, Limit: -1, Stdout: true}
	if err := readLog(t.Context(), path, opts, &out, alive); err != nil || out.String() != plainText(0, 3) {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
