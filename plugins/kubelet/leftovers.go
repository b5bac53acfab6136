package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
)

// podsOnDisk lists the pods that have volumes or logs on this node.
func (k *Kubelet) podsOnDisk() ([]types.UID, error) {
	marked, err := readLogMarks(k.env.DataDir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(k.volumes.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list pods' volumes: %w", err)
	}
	for _, e := range entries {
		marked[e.Name()] = true
	}
	out := make([]types.UID, 0, len(marked))
	for uid := range marked {
		out = append(out, types.UID(uid))
	}
	return out, nil
}

// sweep removes volumes, cgroups and logs of pods that neither the API nor the runtime has: those that went by force while this process was
// down. What the runtime still has is ended first, as an orphan.
func (p *pleg) sweep(inRuntime map[types.UID]uint64) {
	uids, err := p.k.podsOnDisk() // before it is asked whose they are: a new pod has a worker before it has a folder
	if err != nil {
		p.k.log.Warn("Folders of removed pods are not looked for", "err", err)
		return
	}
	for _, uid := range uids {
		if _, has := inRuntime[uid]; has || p.isOrphan(uid) || p.k.worker(uid) != nil || p.known(uid) {
			continue
		}
		if err := p.k.removeFiles(uid); err != nil {
			p.k.log.Warn("Files of a removed pod stay", "podUid", string(uid), "err", err)
		}
	}
}

func (p *pleg) isOrphan(uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.orphans[uid]
}

// removeFiles removes all that a pod without containers has on this node.
func (k *Kubelet) removeFiles(uid types.UID) error {
	if err := k.volumes.tearDown(uid); err != nil {
		return err
	}
	if err := k.cg.remove(string(uid)); err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(k.cfg.LogDir, "*_*_"+string(uid)))
	if err != nil {
		return fmt.Errorf("find pod logs: %w", err)
	}
	for _, dir := range dirs {
		if err := removeLogDir(dir, k.cfg.ContainerLogLinks); err != nil {
			return err
		}
	}
	return unmarkLogs(k.env.DataDir, string(uid))
}
