package network

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// sandbox is what is on disk of a sandbox that was set up: one file each, replaced
// atomically.
type sandbox struct {
	ID        string        `json:"id"`
	Netns     string        `json:"netns"`
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	UID       string        `json:"uid"`
	Addresses []netip.Addr  `json:"addresses"`
	Gateways  []netip.Addr  `json:"gateways"`
	Ports     []portMapping `json:"ports,omitempty"`
}

// portMapping is a host port; HostIP is not valid if it is for all addresses.
type portMapping struct {
	Protocol      string     `json:"protocol"`
	HostIP        netip.Addr `json:"hostIP"`
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
}

// nodeState is what is on disk of the node: what it needs to set up pods while the API
// server is away.
type nodeState struct {
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
}

const (
	sandboxesDir = "sandboxes"
	nodeFile     = "node.json"
	sysctlsFile  = "sysctls.json"
)

// digest names a sandbox where its ID is too long or has unfit characters.
func digest(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

// linkName is the name of the host's end of the sandbox's veth pair.
func linkName(id string) string { return linkPrefix + digest(id)[:15-len(linkPrefix)] }

func sandboxFile(dataDir, id string) string {
	return filepath.Join(dataDir, sandboxesDir, digest(id)[:32]+".json")
}

// writeJSON replaces the file atomically. It is not synced: what it describes does not
// outlive the machine's memory either.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// readJSON reads a file; ok is false if it is not there.
func readJSON(path string, v any) (ok bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}

// loadSandboxes reads all sandboxes. A file cut short by a power failure describes a
// sandbox of an earlier boot: it is removed.
func loadSandboxes(dataDir string, log *slog.Logger) (map[string]*sandbox, error) {
	dir := filepath.Join(dataDir, sandboxesDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("load sandboxes: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load sandboxes: %w", err)
	}
	all := map[string]*sandbox{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var sb sandbox
		if !strings.HasSuffix(path, ".json") {
			_ = os.Remove(path) // a write that was cut off
			continue
		}
		if _, err := readJSON(path, &sb); err != nil || sb.ID == "" {
			log.Warn("Removed an unreadable sandbox record", "path", path, "err", err)
			_ = os.Remove(path)
			continue
		}
		all[sb.ID] = &sb
	}
	return all, nil
}
