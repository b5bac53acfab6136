package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/plugins/runtime/internal/cgroup"
	"keelson.dev/keelson/plugins/runtime/internal/images"
)

// StopAll ends all containers and sandboxes, for when Keelson is taken down. No
// runtime plugin may run on these directories. Containers get stopGrace to end, or
// until ctx ends. Addresses stay with the network plugin, which frees them by itself.
func StopAll(ctx context.Context, dataDir, runDir string, log *slog.Logger) error {
	if _, err := os.Stat(dataDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	s, finish, err := openOffline(ctx, dataDir, runDir, log)
	if err != nil {
		return fmt.Errorf("stop all containers: %w", err)
	}
	defer finish()
	return s.stopAll(ctx)
}

// openOffline opens the state without serving it.
func openOffline(ctx context.Context, dataDir, runDir string, log *slog.Logger) (*Server, func(), error) {
	var config Config
	config.SetDefaults()
	s, err := newServer(config, "", dataDir, runDir, log)
	if err != nil {
		return nil, nil, err
	}
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(watch, func() { close(s.stopped) })
	finish := func() {
		cancel()
		s.watchers.Wait()
	}
	if s.images, err = images.Open(filepath.Join(dataDir, "images"), log); err == nil {
		err = s.recover(ctx)
	}
	if err != nil {
		finish()
		return nil, nil, err
	}
	return s, finish, nil
}

func (s *Server) stopAll(ctx context.Context) error {
	s.mu.RLock()
	sandboxes := make([]*sandbox, 0, len(s.sandboxes))
	for _, sb := range s.sandboxes {
		sandboxes = append(sandboxes, sb)
	}
	s.mu.RUnlock()
	errs := make([]error, len(sandboxes))
	var wg sync.WaitGroup
	for i, sb := range sandboxes {
		wg.Go(func() { errs[i] = s.stopGently(ctx, sb) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Server) stopGently(ctx context.Context, sb *sandbox) error {
	sb.life.Lock()
	defer sb.life.Unlock()
	containers := s.containersOf(sb.rec.ID)
	errs := make([]error, len(containers))
	var wg sync.WaitGroup
	for i, c := range containers {
		wg.Go(func() { errs[i] = s.stop(ctx, c, stopGrace) })
	}
	wg.Wait()
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := s.stopSandbox(clean, sb); err != nil {
		return errors.Join(append(errs, fmt.Errorf("stop sandbox %s: %w", sb.rec.ID, err))...)
	}
	s.host.RemoveEmpty(sb.rec.CgroupParent) // no kubelet is there to do it
	return nil
}

// Purge removes everything of these directories: containers, images, mounts, namespaces, cgroups and
// files; what another Keelson on the machine has stays. No runtime plugin may run on these directories.
func Purge(ctx context.Context, dataDir, runDir string, log *slog.Logger) error {
	host, err := cgroup.Detect()
	if err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	own := ownCgroups(host, dataDir, runDir)
	if _, err := os.Stat(dataDir); err == nil {
		if err := StopAll(ctx, dataDir, runDir, log); err != nil {
			log.Warn("Containers were not stopped in order, they are killed", "err", err)
		}
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	errs := []error{purgeProcesses(clean, host, own, runDir)}
	errs = append(errs, (&Server{dataDir: dataDir}).giveHugetlb())
	for _, dir := range []string{runDir, dataDir} {
		if err := mounts.DetachBelow(dir); err != nil {
			errs = append(errs, err) // what is mounted must not be removed with it
			continue
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	return nil
}
