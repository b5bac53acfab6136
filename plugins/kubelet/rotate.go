package kubelet

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// rotatePeriod is how often the sizes of logs are looked at: one stat per running container.
const rotatePeriod = 10 * time.Second

// rotateLogs keeps the logs of running containers within their bounds until ctx ends.
func (k *Kubelet) rotateLogs(ctx context.Context) error {
	for sleep(ctx, rotatePeriod) {
		for _, v := range k.views() {
			for _, list := range v.State.Containers {
				if len(list) == 0 || !list[0].running() || list[0].LogPath == "" {
					continue
				}
				if err := k.rotateLog(ctx, list[0].Id, list[0].LogPath); err != nil {
					k.log.Warn("Log was not rotated", "log", list[0].LogPath, "err", err)
				}
			}
		}
	}
	return nil
}

// rotateLog moves a log that is too long aside and tells the runtime to begin a new one. Older files but the newest are compressed.
func (k *Kubelet) rotateLog(ctx context.Context, id, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		// The last rotation moved the file and the runtime was not reached: repeat that half.
		_, err = k.cri.rt.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
		return err
	}
	if err != nil || info.Size() < k.cfg.ContainerLogMaxSize.Value() {
		return err
	}
	if err := compressOld(path, k.cfg.ContainerLogMaxFiles-2); err != nil {
		return err
	}
	aside := path + "." + time.Now().UTC().Format("20060102-150405.000")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if _, err := k.cri.rt.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		if back := os.Rename(aside, path); back != nil {
			return fmt.Errorf("rotate log: %w", errors.Join(err, back))
		}
		return fmt.Errorf("reopen log of container %s: %w", id, err)
	}
	return nil
}

// compressOld compresses rotated logs that are not, and removes the oldest so that keep are left.
func compressOld(path string, keep int) error {
	old, err := rotated(path)
	if err != nil {
		return err
	}
	for len(old) > keep {
		if err := os.Remove(old[0]); err != nil {
			return fmt.Errorf("remove rotated log: %w", err)
		}
		old = old[1:]
	}
	for _, f := range old {
		if strings.HasSuffix(f, ".gz") {
			continue
		}
		if err := compress(f); err != nil {
			return fmt.Errorf("compress rotated log %s: %w", f, err)
		}
	}
	return nil
}

// rotated lists the files that a log was moved to, the oldest first.
func rotated(path string) ([]string, error) {
	all, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, fmt.Errorf("list rotated logs: %w", err)
	}
	all = slices.DeleteFunc(all, func(f string) bool { return strings.HasSuffix(f, ".tmp") })
	slices.Sort(all)
	return all, nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := path + ".tmp"
	out, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	zip := gzip.NewWriter(out)
	if _, err := io.Copy(zip, in); err != nil {
		return errors.Join(err, out.Close())
	}
	if err := errors.Join(zip.Close(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
