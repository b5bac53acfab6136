package review

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

// record is what a plugin asked for, as it is kept.
type record struct {
	Kind   string `json:"kind"`
	Socket string `json:"socket"`
	// Hooks is a HooksResponse in JSON.
	Hooks         json.RawMessage `json:"hooks,omitempty"`
	DenyOnFailure bool            `json:"denyOnFailure,omitempty"`
}

func (r *record) setHooks(got *admissionv1.HooksResponse) (err error) {
	r.Hooks, err = protojson.Marshal(got)
	return err
}

// hooks checks the hooks and makes them ready for use.
func (r *record) hooks(p *plugin) ([]*hook, error) {
	if len(r.Hooks) == 0 {
		return nil, nil
	}
	var got admissionv1.HooksResponse
	if err := protojson.Unmarshal(r.Hooks, &got); err != nil {
		return nil, fmt.Errorf("decode hooks: %w", err)
	}
	return newHooks(p, got.GetHooks())
}

const recordSuffix = ".json"

func recordPath(dir, name string) string { return filepath.Join(dir, name+recordSuffix) }

// readRecords reads what is kept; a folder that is not there has none.
func readRecords(dir string) (map[string]*record, error) {
	records := map[string]*record{}
	if dir == "" {
		return records, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return records, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what plugins asked for: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok {
			continue // left over from a write that was cut short
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read what plugin %s asked for: %w", name, err)
		}
		r := &record{}
		if err := json.Unmarshal(data, r); err != nil || !Asked(r.Kind) {
			return nil, fmt.Errorf("read what plugin %s asked for: %s is damaged: remove it, and the plugin is asked when it runs", name, filepath.Join(dir, e.Name()))
		}
		records[name] = r
	}
	return records, nil
}

// writeRecord keeps a record; a crash leaves the old one or the new one.
func (s *Set) writeRecord(name string, r *record) error {
	if s.dir == "" {
		return nil
	}
	data, err := json.Marshal(r)
	if err == nil {
		err = os.MkdirAll(s.dir, 0o700)
	}
	path := recordPath(s.dir, name)
	if err == nil {
		err = writeSynced(path+".new", data)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("keep what plugin %s asked for: %w", name, err)
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func (s *Set) removeRecord(name string) error {
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(recordPath(s.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
