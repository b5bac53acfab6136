package libmem

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ReleaseProgram lets go of the pages of the program's own file that are mapped:
// what is used again comes back from the page cache, a few microseconds for each
// 64 KiB, and what only the start has used does not. It also asks Linux to map the
// file in small pieces from then on: 2 MiB come at each touch, otherwise, of a file
// that was written in one go. It is worth its while after the start, and after a
// burst of work.
func ReleaseProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("own program: %w", err)
	}
	return releaseFile(exe)
}

// releaseFile lets go of the pages of one file, in mappings that hold nothing else.
func releaseFile(path string) error {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("own mappings: %w", err)
	}
	clean, err := cleanMappings(bytes.NewReader(smaps), path)
	if err != nil {
		return fmt.Errorf("own mappings: %w", err)
	}
	for _, m := range clean {
		// A Linux without huge pages has no such advice, and needs none.
		if err := m.advise(unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("map %s in small pages: %w", path, err)
		}
		if err := m.advise(unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("release pages of %s: %w", path, err)
		}
	}
	return nil
}

// mapping is a range of addresses of this process.
type mapping struct{ start, end uintptr }

// advise gives advice about a mapping, which no Go slice is of.
func (m mapping) advise(advice int) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, uintptr(advice)); errno != 0 {
		return errno
	}
	return nil
}

// cleanMappings returns the mappings of a file, in the text of /proc/PID/smaps, that
// are private, cannot be written, and have no page of their own in memory or swap:
// whose content is all in the file.
func cleanMappings(smaps io.Reader, path string) ([]mapping, error) {
	var (
		found   []mapping
		current mapping
		wanted  bool
		own     = map[string]bool{} // sizes that were seen to be 0
	)
	end := func() {
		if wanted && own["Anonymous:"] && own["Swap:"] {
			found = append(found, current)
		}
		clear(own)
	}
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		from, to, isRange := strings.Cut(fields[0], "-")
		if !isRange {
			own[fields[0]] = fields[1] == "0"
			continue
		}
		end()
		start, err1 := strconv.ParseUint(from, 16, 64)
		stop, err2 := strconv.ParseUint(to, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		current = mapping{uintptr(start), uintptr(stop)}
		wanted = len(fields) > 5 && strings.HasSuffix(lines.Text(), " "+path) && (fields[1] == "r-xp" || fields[1] == "r--p")
	}
	end()
	return found, lines.Err()
}
