package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// hookMark says of a container's preStop hook that it was begun, and whether it has ended:
// for the kubelet that takes over meanwhile. It lies beside the pod's volumes and goes with
// them.
type hookMark string

// preStop is the mark of a container.
func (k *Kubelet) preStop(uid types.UID, container string) hookMark {
	return hookMark(filepath.Join(k.volumes.podDir(uid), "prestop", container))
}

// read tells when the hook was begun (zero: it was not), and whether it has ended.
func (m hookMark) read() (begun time.Time, done bool) {
	data, err := os.ReadFile(string(m))
	if err == nil {
		begun, err = time.Parse(time.RFC3339Nano, string(data))
	}
	if err != nil { // what cannot be read was not written
		return time.Time{}, false
	}
	_, err = os.Stat(string(m) + ".done")
	return begun, err == nil
}

// begin notes that the hook is begun now, unless it was noted before.
func (m hookMark) begin() error {
	if begun, _ := m.read(); !begun.IsZero() {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(string(m)), 0o700)
	if err == nil {
		err = os.WriteFile(string(m), []byte(time.Now().Format(time.RFC3339Nano)), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note a preStop hook: %w", err)
	}
	return nil
}

// end notes that it has ended.
func (m hookMark) end() error {
	err := os.WriteFile(string(m)+".done", nil, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // the pod's folder has gone, and with it the question
	}
	if err != nil {
		return fmt.Errorf("note the end of a preStop hook: %w", err)
	}
	return nil
}
