package libmem

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const smaps = `00400000-03778000 r-xp 00000000 fe:00 9986965                            /opt/keelson
Size:              52704 kB
Rss:               52704 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
03778000-0761a000 r--p 03378000 fe:00 9986965                            /opt/keelson
Anonymous:             0 kB
Swap:                  0 kB
0761a000-0773c000 rw-p 0721a000 fe:00 9986965                            /opt/keelson
Anonymous:             0 kB
Swap:                  0 kB
0773c000-0773d000 r--p 0721a000 fe:00 9986965                            /opt/keelson
Anonymous:             4 kB
Swap:                  0 kB
0773d000-0773e000 r--p 0721a000 fe:00 9986965                            /opt/keelson
Anonymous:             0 kB
Swap:                  4 kB
0773e000-0773f000 r--s 0721a000 fe:00 9986965                            /opt/keelson
Anonymous:             0 kB
Swap:                  0 kB
0773f000-07740000 r-xp 0721a000 fe:00 9986966                            /opt/other-keelson
Anonymous:             0 kB
Swap:                  0 kB
3efced400000-3efcf4400000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7fff00000000-7fff00001000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
Swap:                  0 kB
`

// TestCleanMappings checks that only what is wholly in the file is released.
func TestCleanMappings(t *testing.T) {
	got, err := cleanMappings(strings.NewReader(smaps), "/opt/keelson")
	if err != nil {
		t.Fatal(err)
	}
	if want := []mapping{{0x400000, 0x3778000}, {0x3778000, 0x761a000}}; !slices.Equal(got, want) {
		t.Errorf("clean mappings are %x, want %x", got, want)
	}
	if _, err := cleanMappings(strings.NewReader("zz-3 r-xp 0 0 0 /a\n"), "/a"); err == nil {
		t.Error("a range that is no number was accepted")
	}
}

// TestReleaseFile maps a file twice: pages that are the file's go and come back,
// pages that were written stay.
func TestReleaseFile(t *testing.T) {
	const size = 1 << 20
	path := filepath.Join(t.TempDir(), "program")
	content := bytes.Repeat([]byte("keelson "), size/8)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	clean, written := mapFile(t, path, size), mapFile(t, path, size)
	if !bytes.Equal(clean, content) { // touches all
		t.Fatal("the mapping differs from the file")
	}
	written[size/2] = 'K'
	for _, m := range [][]byte{clean, written} {
		if err := unix.Mprotect(m, unix.PROT_READ); err != nil {
			t.Fatal(err)
		}
	}
	if resident(t, clean) == "0" {
		t.Fatal("nothing of the mapping is resident before")
	}
	if err := releaseFile(path); err != nil {
		t.Fatal(err)
	}
	if got := resident(t, clean); got != "0" {
		t.Errorf("%s kB of the mapping are resident after", got)
	}
	if !bytes.Equal(clean, content) {
		t.Error("the mapping differs from the file after its pages were released")
	}
	if written[size/2] != 'K' {
		t.Error("what was written into a private mapping is lost")
	}
}

// TestReleaseProgram releases the test's own program while it runs.
func TestReleaseProgram(t *testing.T) {
	if err := ReleaseProgram(); err != nil {
		t.Fatal(err)
	}
}

// mapFile maps a file privately, until the test ends.
func mapFile(t *testing.T, path string, size int) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m) })
	return m
}

// resident returns the kilobytes of a mapping that are in memory.
func resident(t *testing.T, m []byte) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut("\n"+string(data), fmt.Sprintf("\n%08x-", uintptr(unsafe.Pointer(&m[0]))))
	_, rest, ok2 := strings.Cut(rest, "Rss:")
	if !ok || !ok2 {
		t.Fatalf("no mapping at %p", &m[0])
	}
	return strings.Fields(rest)[0]
}
