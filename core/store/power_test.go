package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/test/need"
)

const (
	ext4Shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
	shutdownNoSync = 2          // neither data nor the journal are written any more
)

// TestRootPowerLoss cuts the power again and again: on an ext4 of its own, the kernel is told to write nothing more, as
// if the machine had gone at that moment. What was not synced is lost, and nothing that was acknowledged may be.
func TestRootPowerLoss(t *testing.T) {
	rounds := times(t, 8, 2, 200)
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 256<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		need.Missing(t, "mkfs.ext4: %v: %s", err, out)
	}
	seed := uint64(time.Now().UnixNano())
	m := &crashModel{
		t: t, acks: map[uint64]crashWrite{}, newest: map[string]uint64{}, removed: map[string]uint64{},
		rand: rand.New(rand.NewPCG(seed, 1)),
	}
	disk := t.TempDir()
	little := func() bool { return len(m.acks) < 10*rounds }
	for ; m.round < rounds || little() && m.round < 20*rounds; m.round++ { // a busy machine does less in a round
		image = mountImage(t, image, disk)
		delay := time.Duration(m.rand.IntN(300)) * time.Millisecond
		m.cut = func() { cutPower(t, disk) }
		m.run(filepath.Join(disk, "store"), crashPlan{after: "dumped", delay: delay})
		unmountDisk(t, disk)
		if t.Failed() {
			t.Fatalf("round %d failed; the seed was %d", m.round, seed)
		}
	}
	t.Logf("seed %d: %d rounds, %d writes acknowledged up to revision %d", seed, m.round, len(m.acks), m.top)
	if little() {
		t.Error("the rounds did too little to show anything")
	}
}

// mountImage mounts the image, or a copy of it, and returns which. Whoever makes a mount namespace while the image is
// mounted has the mount too, so that the file system that was shut down lives on, and is what a second mount gives.
func mountImage(t *testing.T, image, disk string) string {
	t.Helper()
	mount := func() error {
		if out, err := exec.Command("mount", "-o", "loop", image, disk).CombinedOutput(); err != nil {
			need.Missing(t, "a mount of ext4: %v: %s", err, out)
		}
		probe := filepath.Join(disk, "probe")
		return errors.Join(os.WriteFile(probe, nil, 0o600), os.Remove(probe))
	}
	err := mount()
	if errors.Is(err, unix.EIO) {
		unmountDisk(t, disk)
		image = copyImage(t, image)
		err = mount()
	}
	if err != nil {
		t.Fatalf("write to the disk: %v", err)
	}
	return image
}

// copyImage gives a file of the same contents, and removes the first.
func copyImage(t *testing.T, image string) string {
	t.Helper()
	src, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.CreateTemp(filepath.Dir(image), "disk")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(copySparse(src, dst), dst.Close(), os.Remove(image)); err != nil {
		t.Fatal(err)
	}
	return dst.Name()
}

func unmountDisk(t *testing.T, disk string) {
	t.Helper()
	waitFor(t, "the disk is not in use", func() bool { return unix.Unmount(disk, 0) == nil || !mounted(disk) })
}

func mounted(dir string) bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return err != nil || strings.Contains(string(b), " "+dir+" ")
}

func cutPower(t *testing.T, disk string) {
	f, err := os.Open(disk)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	flags := uint32(shutdownNoSync)
	//nolint:gosec // the kernel reads the four bytes
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&flags)))
	if errno != 0 {
		t.Error(fmt.Errorf("shut the file system down: %w", errno))
	}
}
