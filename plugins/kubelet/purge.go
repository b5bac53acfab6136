package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Purge removes what the kubelet left on the node: mounts and folders of pods below dataDir, their logs, the links to those, their cgroups.
// Only logs of pods that have a folder below dataDir are touched. The kubelet and all containers must have ended before.
func Purge(ctx context.Context, dataDir, runDir string, log *slog.Logger) error {
	var cfg Config
	cfg.SetDefaults()
	return purge(ctx, cfg, dataDir, runDir, log)
}

func purge(ctx context.Context, cfg Config, dataDir, runDir string, log *slog.Logger) error {
	var errs []error
	pods := filepath.Join(dataDir, "pods")
	entries, err := os.ReadDir(pods)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list pods: %w", err)
	}
	cg := newCgroups(cfg.CgroupRoot)
	marked, err := readLogMarks(dataDir)
	if err != nil {
		errs = append(errs, err)
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return errors.Join(append(errs, ctx.Err())...)
		}
		marked[e.Name()] = true
		errs = append(errs, removeTree(filepath.Join(pods, e.Name())), cg.remove(e.Name()))
	}
	logs, _ := filepath.Glob(filepath.Join(cfg.LogDir, "*_*_*"))
	for _, dir := range logs {
		parts := strings.Split(filepath.Base(dir), "_")
		if !marked[parts[len(parts)-1]] {
			continue
		}
		log.Info("Removing pod logs", "dir", dir)
		errs = append(errs, removeLogDir(dir, cfg.ContainerLogLinks))
	}
	for _, dir := range []string{cfg.LogDir, cfg.ContainerLogLinks} {
		_ = os.Remove(dir) // only if nobody else has something in it
	}
	errs = append(errs, removeTree(pods), os.RemoveAll(filepath.Join(dataDir, logMarks)))
	if runDir != "" {
		errs = append(errs, os.RemoveAll(runDir))
	}
	for _, dir := range cg.dirs(cfg.CgroupRoot) {
		_ = os.Remove(dir) // only if nobody else has something in it
	}
	return errors.Join(errs...)
}

// removeLogDir removes a pod's logs, and the links to them in the folder links.
func removeLogDir(dir, links string) error {
	var errs []error
	all, _ := filepath.Glob(filepath.Join(links, "*.log"))
	for _, l := range all {
		if target, err := os.Readlink(l); err == nil && strings.HasPrefix(target, dir+"/") {
			errs = append(errs, os.Remove(l))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

// logMarks is the folder with an empty file per pod that has logs: a pod's volumes go before its logs do.
const logMarks = "logs"

func markLogs(dataDir, uid string) error {
	dir := filepath.Join(dataDir, logMarks)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("note pod logs: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, uid), nil, 0o600); err != nil {
		return fmt.Errorf("note pod logs: %w", err)
	}
	return nil
}

func unmarkLogs(dataDir, uid string) error {
	if err := os.Remove(filepath.Join(dataDir, logMarks, uid)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget pod logs: %w", err)
	}
	return nil
}

func readLogMarks(dataDir string) (map[string]bool, error) {
	out := map[string]bool{}
	entries, err := os.ReadDir(filepath.Join(dataDir, logMarks))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return out, fmt.Errorf("list pod logs: %w", err)
	}
	for _, e := range entries {
		out[e.Name()] = true
	}
	return out, nil
}
