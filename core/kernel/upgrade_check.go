package kernel

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"keelson.dev/keelson/core/atomicfile"
	"keelson.dev/keelson/core/store"
	"keelson.dev/keelson/core/version"
)

// UpgradeCheckCommand is the first argument with which a binary is asked whether it can take
// a kernel's place; the kernel's own arguments follow. It prints an UpgradeCheck.
const UpgradeCheckCommand = "upgrade-check"

// checkTime bounds the answer.
const checkTime = time.Minute

// module is what every Keelson binary says it is built from.
const module = "keelson.dev/keelson"

// UpgradeCheck is what a binary says of itself.
type UpgradeCheck struct {
	Program string `json:"program"`
	Build   string `json:"build"`
	Release string `json:"release"`
	// Formats are the oldest and the newest form of a succession that it takes.
	Formats [2]int `json:"formats"`
	// Store is the format of the store's records that it reads and writes.
	Store int `json:"store"`
	// Error says why it would not start with these arguments; empty: it would.
	Error string `json:"error,omitempty"`
}

// PrintUpgradeCheck answers for this binary; fault is what is wrong with the arguments.
func PrintUpgradeCheck(w io.Writer, fault error) error {
	c := UpgradeCheck{
		Program: module, Build: version.Build(), Release: version.Git(), Formats: [2]int{UpgradeFormatOldest, UpgradeFormat}, Store: store.Format,
	}
	if fault != nil {
		c.Error = fault.Error()
	}
	return json.NewEncoder(w).Encode(c)
}

// plan is what is to be executed.
type plan struct {
	path   string
	staged string // path, where it is to be put in the old one's place; else empty
	before string
}

// prepare checks the new binary, and lays it and the old one where they are needed. On an
// error all is as it was.
func (r *replacer) prepare(ctx context.Context, to string, c *caller) (_ *plan, err error) {
	program := r.offered.Program
	p := &plan{path: program}
	if to == "" {
		to = program
	}
	if !filepath.IsAbs(to) {
		return nil, fmt.Errorf("--to %s: not an absolute path", to)
	}
	if err := checkBinary(to); err != nil {
		return nil, err
	}
	if !sameFile(to, program) {
		p.staged = filepath.Join(filepath.Dir(program), ".keelson-next")
		p.path = p.staged
		if err := copyBinary(to, p.staged); err != nil {
			return nil, fmt.Errorf("copy %s: %w", to, err)
		}
		defer func() {
			if err != nil {
				_ = os.Remove(p.staged)
			}
		}()
	}
	said, err := askBinary(ctx, p.path, r.offered.Args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", to, err)
	}
	if p.before, err = r.keepBefore(); err != nil {
		return nil, fmt.Errorf("keep the old binary: %w", err)
	}
	r.log.Info("The kernel is to be replaced", "to", to, "build", said.Build, "before", version.Build())
	c.say("%s is build %s of %s; this kernel is build %s", to, said.Build, said.Release, version.Build())
	return p, nil
}

// machines are the ELF machines of what Go calls architectures.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "arm": elf.EM_ARM, "riscv64": elf.EM_RISCV, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390,
}

// checkBinary refuses what cannot be a Keelson for this machine; nothing is executed.
func checkBinary(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("--to: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("--to %s: not a file", path)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("--to %s: not executable (mode %04o): chmod +x", path, info.Mode().Perm())
	case info.Mode()&0o022 != 0:
		return fmt.Errorf("--to %s: others than its owner can write to it (mode %04o): chmod go-w", path, info.Mode().Perm())
	}
	file, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("--to %s: no program for Linux (ELF): %w", path, err)
	}
	defer func() { _ = file.Close() }()
	if want := machines[runtime.GOARCH]; file.Machine != want {
		return fmt.Errorf("--to %s: a program for %s, this machine is %s", path, file.Machine, want)
	}
	for _, s := range file.Progs {
		if end := s.Off + s.Filesz; end > uint64(info.Size()) {
			return fmt.Errorf("--to %s: truncated: it has %d bytes and should have %d or more", path, info.Size(), end)
		}
	}
	built, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--to %s: no Keelson: %w", path, err)
	}
	if built.Main.Path != module || !strings.HasPrefix(built.Path, module) {
		return fmt.Errorf("--to %s: no Keelson: it is built from %s", path, built.Path)
	}
	return nil
}

// askBinary asks a binary whether it can take this kernel's place.
func askBinary(ctx context.Context, path string, args []string) (*UpgradeCheck, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	var out, words bytes.Buffer
	cmd := exec.CommandContext(ctx, path, append([]string{UpgradeCheckCommand}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &words
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", checkTime)
		}
		return nil, fmt.Errorf("it does not say whether it can take this kernel's place (a release without keelson upgrade?): %w: %s", err, lastLine(words.String()))
	}
	said := &UpgradeCheck{}
	if err := json.Unmarshal(out.Bytes(), said); err != nil {
		return nil, fmt.Errorf("it does not say whether it can take this kernel's place (a release without keelson upgrade?): %w", err)
	}
	switch {
	case said.Program != module:
		return nil, fmt.Errorf("it is %q, no Keelson", said.Program)
	case UpgradeFormat < said.Formats[0] || UpgradeFormat > said.Formats[1]:
		return nil, fmt.Errorf("it takes over from kernels of formats %d to %d, this one's is %d: stop the cluster and start it with the new binary",
			said.Formats[0], said.Formats[1], UpgradeFormat)
	case said.Store != store.Format:
		return nil, fmt.Errorf("its store has format %d, this one's has %d: stop the cluster and start it with the new binary", said.Store, store.Format)
	case said.Error != "":
		return nil, fmt.Errorf("it does not start with this kernel's settings: %s", said.Error)
	}
	return said, nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// keepBefore keeps the running binary, which may lie nowhere any more, below the data folder.
func (r *replacer) keepBefore() (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(r.dataDir, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	inode := uint64(0)
	if stat, ok := self.Sys().(*syscall.Stat_t); ok {
		inode = stat.Ino
	}
	path := filepath.Join(dir, fmt.Sprintf("%s%x-%x", beforePrefix, inode, self.ModTime().UnixNano()))
	if there, err := os.Stat(path); err == nil && there.Size() == self.Size() {
		return path, nil
	}
	if lies, err := os.Stat(r.offered.Program); err == nil && os.SameFile(lies, self) && os.Link(r.offered.Program, path) == nil {
		return path, nil
	}
	return path, copyBinary("/proc/self/exe", path)
}

// copyBinary copies a program.
func copyBinary(from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return atomicfile.Copy(to, file, 0o755)
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return errors.Join(err1, err2) == nil && os.SameFile(x, y)
}

// removeStaged removes a new binary that did not get to work.
func (r *replacer) removeStaged() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.plan != nil && r.plan.staged != "" {
		_ = os.Remove(r.plan.staged)
	}
}

// clean removes old binaries, but for one.
func (r *replacer) clean(but string) {
	kept, err := filepath.Glob(filepath.Join(r.dataDir, "bin", beforePrefix+"*"))
	if err != nil {
		return
	}
	for _, path := range kept {
		if path != but && !slices.Contains([]string{r.offered.Program}, path) {
			_ = os.Remove(path)
		}
	}
}
