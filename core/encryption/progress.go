package encryption

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"keelson.dev/keelson/core/atomicfile"
)

// Names of the files in a folder of Keelson's own.
const (
	fileName     = "config.yaml"
	progressName = "written.json"
)

// File is the configuration in dir, see Ensure.
func File(dir string) string { return filepath.Join(dir, fileName) }

// Forget has the server look at all Secrets of the store of dir anew, for a store that
// took the place of another.
func Forget(dir string) error {
	err := os.Remove(filepath.Join(dir, progressName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Progress says with which key all Secrets were written anew.
type Progress struct {
	// Key is the name of the key; empty: none yet. Plain: they were written
	// unencrypted since.
	Key   string `json:"key"`
	Plain bool   `json:"plain,omitempty"`
	// Secrets is how many there were.
	Secrets int `json:"secrets"`
	// At is when the last one was written.
	At time.Time `json:"at"`
}

// Done says whether all Secrets are as s wants them.
func (p Progress) Done(s State) bool {
	return p.Key == s.Keys[0] && p.Plain == !s.Encrypts
}

// ReadProgress tells how far the Secrets of the store of dir are. No file means
// that nothing was written anew.
func ReadProgress(dir string) (Progress, error) {
	var p Progress
	path := filepath.Join(dir, progressName)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("%s is damaged (%w): remove it; the Secrets are then written anew", path, err)
	}
	return p, nil
}

// WriteProgress notes that all Secrets have been written anew.
func WriteProgress(dir string, p Progress) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, progressName), append(data, '\n'), 0o600)
}
