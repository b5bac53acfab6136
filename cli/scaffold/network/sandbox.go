package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// sandbox is what is kept of one: a file each.
type sandbox struct {
	ID      string     `json:"id"`
	Netns   string     `json:"netns"`
	Address netip.Addr `json:"address"`
}

// digest stands for an identity where that is too long, or has unfit characters.
func (s sandbox) digest() string {
	sum := sha256.Sum256([]byte(s.ID))
	return hex.EncodeToString(sum[:])
}

// link is the name of the node's end of its link; names have 15 bytes at most.
func (s sandbox) link() string { return "flat" + s.digest()[:11] }

func (s sandbox) file(dir string) string { return filepath.Join(dir, s.digest()[:32]+".json") }

// save replaces the file at once, so that a crash leaves one or the other.
func (s sandbox) save(dir string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file(dir)+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(s.file(dir)+".new", s.file(dir))
}

func (s sandbox) remove(dir string) error { return os.RemoveAll(s.file(dir)) }

// loadSandboxes reads what earlier processes left.
func loadSandboxes(dir string) (map[string]sandbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	sandboxes := map[string]sandbox{}
	for _, file := range files {
		var s sandbox
		data, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err != nil {
			return nil, fmt.Errorf("read sandbox: %w", err)
		}
		sandboxes[s.ID] = s
	}
	return sandboxes, nil
}
