package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// phase is how far a sandbox or container is.
type phase string

const (
	phaseCreating phase = "creating"
	phaseCreated  phase = "created"
	phaseRunning  phase = "running"
	phaseExited   phase = "exited"
	phaseReady    phase = "ready"
	phaseStopped  phase = "stopped"
)

// containerRecord is what is kept of a container on disk.
type containerRecord struct {
	ID, SandboxID string
	Hidden        bool // a sandbox's own process, not CRI's
	Config        json.RawMessage
	ImageID       string
	ImageRef      string
	Layers        []string
	LogPath       string
	CgroupPath    string
	Runtime       string // executable of the OCI runtime
	StopSignal    string
	User          json.RawMessage
	Resources     json.RawMessage

	Phase                            phase
	CreatedAt, StartedAt, FinishedAt int64 // ns since 1970
	StopSignaledAt                   int64 // when the stop signal was sent, ns since 1970; 0: not yet
	ExitCode                         int32
	Reason, Message                  string
	Pid, ConmonPid                   int
	PidStart, ConmonStart            uint64 // start times: a pid alone may be reused
}

// container is one container in memory.
type container struct {
	op     sync.Mutex // held by create, start, end and remove
	exited chan struct{}

	mu        sync.Mutex // guards all below
	rec       containerRecord
	config    *cri.ContainerConfig
	user      *cri.ContainerUser
	resources *cri.LinuxContainerResources
	removed   bool
	disk      diskUsage
}

// sandboxRecord is what is kept of a sandbox on disk.
type sandboxRecord struct {
	ID           string
	Config       json.RawMessage
	Handler      string
	Phase        phase
	CreatedAt    int64
	Addresses    []string
	Networked    bool // Setup was called, Teardown was not
	CgroupParent string
	Pause        string // container that holds the shared PID namespace
}

// sandbox is one sandbox in memory.
type sandbox struct {
	life sync.RWMutex // shared by creations within, exclusive for stop and remove

	mu      sync.Mutex // guards all below
	rec     sandboxRecord
	config  *cri.PodSandboxConfig
	removed bool
}

func (c *container) snapshot() containerRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec
}

func (sb *sandbox) snapshot() sandboxRecord {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return sb.rec
}

func (s *Server) containerDir(id string) string { return filepath.Join(s.dataDir, "containers", id) }
func (s *Server) bundleDir(id string) string    { return filepath.Join(s.runDir, "containers", id) }
func (s *Server) sandboxDir(id string) string   { return filepath.Join(s.runDir, "sandboxes", id) }
func (s *Server) netnsDir(id string) string     { return filepath.Join(s.runDir, "netns", id) }
func (s *Server) sandboxFile(id string) string {
	return filepath.Join(s.dataDir, "sandboxes", id+".json")
}
func (s *Server) containerFile(id string) string {
	return filepath.Join(s.containerDir(id), "record.json")
}
func (s *Server) exitDir() string { return filepath.Join(s.runDir, "exits") }
func (s *Server) ociRoot() string { return filepath.Join(s.runDir, "oci") }

// update changes a container's record in memory and on disk.
func (s *Server) update(c *container, change func(*containerRecord)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return nil
	}
	change(&c.rec)
	return writeRecord(s.containerFile(c.rec.ID), &c.rec)
}

func (s *Server) updateSandbox(sb *sandbox, change func(*sandboxRecord)) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if sb.removed {
		return nil
	}
	change(&sb.rec)
	return writeRecord(s.sandboxFile(sb.rec.ID), &sb.rec)
}

// writeRecord replaces a record. It is not synced: after a power loss nothing runs,
// and a record that is missing or damaged is cleaned up like a half-made one.
func writeRecord(file string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return errors.Join(fmt.Errorf("write record: %w", err), os.Remove(tmp))
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

func readRecord(file string, record any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, record)
}

func encode(m proto.Message) (json.RawMessage, error) { return protojson.Marshal(m) }

func decode(data json.RawMessage, m proto.Message) error {
	if len(data) == 0 || string(data) == "null" {
		return nil
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m)
}

// startTime answers when a process started, in clock ticks since boot; 0 when
// there is none. Zombies count as gone.
func startTime(pid int) uint64 {
	if pid <= 0 {
		return 0
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// alive says whether the very process still runs.
func alive(pid int, start uint64) bool { return start != 0 && startTime(pid) == start }

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
