package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/runtime/internal/conmon"
	"keelson.dev/keelson/plugins/runtime/internal/images"
	"keelson.dev/keelson/plugins/runtime/internal/oci"
	"keelson.dev/keelson/plugins/runtime/internal/rootfs"
)

// CreateContainer makes a container; its process waits to be started.
func (s *Server) CreateContainer(ctx context.Context, req *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	begin := time.Now()
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, rpcError(err)
	}
	config := req.GetConfig()
	c, err := s.createContainer(ctx, sb, config)
	if err != nil {
		return nil, rpcError(fmt.Errorf("create container %q in sandbox %s: %w", config.GetMetadata().GetName(), sb.rec.ID, err))
	}
	s.metrics.observe("create_container", begin)
	return &cri.CreateContainerResponse{ContainerId: c.rec.ID}, nil
}

func (s *Server) createContainer(ctx context.Context, sb *sandbox, config *cri.ContainerConfig) (*container, error) {
	sb.life.RLock()
	defer sb.life.RUnlock()
	sbRec := sb.snapshot()
	if sbRec.Phase != phaseReady {
		return nil, fmt.Errorf("the sandbox is not ready: %w", errState)
	}
	if config.GetMetadata().GetName() == "" {
		return nil, fmt.Errorf("the container's metadata needs a name: %w", oci.ErrInvalid)
	}
	img, err := s.images.Get(config.GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	id := newID()
	s.images.Hold(id, img.Layers)
	data, err := encode(config)
	if err != nil {
		return nil, err
	}
	rec := containerRecord{
		ID: id, SandboxID: sbRec.ID, Config: data, ImageID: img.ID, ImageRef: imageRef(img), Layers: img.Layers,
		CgroupPath: filepath.Join(sbRec.CgroupParent, id), Phase: phaseCreating, CreatedAt: time.Now().UnixNano(),
	}
	if config.GetLogPath() != "" && sb.config.GetLogDirectory() != "" {
		rec.LogPath = filepath.Join(sb.config.GetLogDirectory(), config.GetLogPath())
	}
	c := &container{config: config, rec: rec, exited: make(chan struct{}), resources: config.GetLinux().GetResources()}
	c.op.Lock()
	defer c.op.Unlock()
	err = s.makeContainer(ctx, sb, c, img)
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if cerr := s.discard(clean, c); cerr != nil {
			s.log.Warn("A failed container was not removed wholly", "container", id, "err", cerr)
		}
		return nil, err
	}
	s.adopt(c)
	s.emit(cri.ContainerEventType_CONTAINER_CREATED_EVENT, id, sb)
	return c, nil
}

// imageRef is what CRI calls a container's image_ref: a repository digest if
// there is one, else the identity.
func imageRef(img *images.Image) string {
	if len(img.Digests) > 0 {
		return img.Digests[0]
	}
	return img.ID
}

// makeContainer prepares the files, and has conmon create the container.
func (s *Server) makeContainer(ctx context.Context, sb *sandbox, c *container, img *images.Image) error {
	if err := os.MkdirAll(s.containerDir(c.rec.ID), 0o700); err != nil {
		return err
	}
	if err := s.update(c, func(*containerRecord) {}); err != nil {
		return err
	}
	root, err := s.mountRoot(c.rec.ID, img.Layers)
	if err != nil {
		return err
	}
	imageMounts, err := s.mountImages(c)
	if err != nil {
		return err
	}
	pid, err := s.pidNamespace(sb, c.config)
	if err != nil {
		return err
	}
	in := s.specInput(sb, c, root)
	in.Image, in.ImageMounts, in.Namespaces.PID = img.Config, imageMounts, pid
	result, err := oci.Build(in)
	if err != nil {
		return err
	}
	user, err := encode(result.User)
	if err != nil {
		return err
	}
	c.user = result.User
	if err := s.update(c, func(r *containerRecord) { r.StopSignal, r.User = result.StopSignal, user }); err != nil {
		return err
	}
	return s.launch(ctx, c, result)
}

// launch writes the bundle's specification and starts conmon.
func (s *Server) launch(ctx context.Context, c *container, result *oci.Result) error {
	runtimeBin, conmonBin, err := s.programs()
	if err != nil {
		return err
	}
	data, err := json.Marshal(result.Spec)
	if err != nil {
		return err
	}
	bundle := s.bundleDir(c.rec.ID)
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		return err
	}
	if c.rec.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(c.rec.LogPath), 0o755); err != nil {
			return fmt.Errorf("make the log's directory: %w", err)
		}
	}
	if err := s.update(c, func(r *containerRecord) { r.Runtime = runtimeBin }); err != nil {
		return err
	}
	process, err := conmon.Create(ctx, s.spawner, conmon.Options{
		Conmon: conmonBin, Runtime: runtimeBin, RuntimeRoot: s.ociRoot(), ID: c.rec.ID, Bundle: bundle, ExitDir: s.exitDir(),
		LogPath: c.rec.LogPath, Terminal: c.config.GetTty(), Stdin: c.config.GetStdin(), StdinOnce: c.config.GetStdinOnce(),
	})
	if err != nil {
		return err
	}
	return s.update(c, func(r *containerRecord) {
		r.Phase, r.Pid, r.ConmonPid = phaseCreated, process.Pid, process.ConmonPid
		r.PidStart, r.ConmonStart = startTime(process.Pid), startTime(process.ConmonPid)
	})
}

// mountRoot mounts a container's root file system.
func (s *Server) mountRoot(id string, layers []string) (string, error) {
	root := filepath.Join(s.bundleDir(id), "rootfs")
	upper, work := filepath.Join(s.containerDir(id), "upper"), filepath.Join(s.containerDir(id), "work")
	for _, dir := range []string{root, upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	lower := images.Lower(layers)
	if len(lower) == 0 {
		lower = []string{filepath.Join(s.containerDir(id), "empty")}
		if err := os.MkdirAll(lower[0], 0o755); err != nil {
			return "", err
		}
	}
	overlay := rootfs.Overlay{LayersDir: s.images.LayersDir(), Lower: lower, Upper: upper, Work: work, Volatile: true}
	return root, overlay.Mount(root)
}

// mountImages mounts the images that are volumes of the container.
func (s *Server) mountImages(c *container) (map[string]string, error) {
	out := map[string]string{}
	for i, m := range c.config.GetMounts() {
		ref := m.GetImage().GetImage()
		if ref == "" {
			continue
		}
		img, err := s.images.Get(ref)
		if err != nil {
			return nil, fmt.Errorf("volume on %s: %w", m.GetContainerPath(), err)
		}
		s.images.Hold(fmt.Sprintf("%s/%d", c.rec.ID, i), img.Layers)
		dir := filepath.Join(s.bundleDir(c.rec.ID), "images", fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := (rootfs.Overlay{LayersDir: s.images.LayersDir(), Lower: images.Lower(img.Layers)}).Mount(dir); err != nil {
			return nil, fmt.Errorf("volume on %s: %w", m.GetContainerPath(), err)
		}
		if sub := m.GetImageSubPath(); sub != "" {
			f, err := rootfs.OpenIn(dir, sub, unix.O_PATH)
			if err != nil {
				return nil, fmt.Errorf("volume on %s: %w", m.GetContainerPath(), err)
			}
			dir, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
		}
		out[m.GetContainerPath()] = dir
	}
	return out, nil
}

func (s *Server) specInput(sb *sandbox, c *container, root string) oci.Input {
	opts := nsOptions(sb.config)
	dir, pinned := s.sandboxDir(sb.rec.ID), s.netnsDir(sb.rec.ID)
	in := oci.Input{
		Config: c.config, Sandbox: sb.config, Rootfs: root, CgroupPath: c.rec.CgroupPath, Hostname: hostname(sb.config),
		HostnameFile: filepath.Join(dir, "hostname"), ResolvConf: filepath.Join(dir, "resolv.conf"), Shm: filepath.Join(dir, "shm"),
		Limits: s.limits, CgroupV2: s.host.V2, AppArmor: s.apparmor, SeccompRoot: s.config.SeccompRoot,
		Namespaces: oci.Namespaces{Network: filepath.Join(pinned, "net"), IPC: filepath.Join(pinned, "ipc"), UTS: filepath.Join(pinned, "uts")},
	}
	if opts.GetNetwork() == cri.NamespaceMode_NODE {
		in.Namespaces.Network, in.Namespaces.UTS = oci.Host, oci.Host
	}
	if opts.GetIpc() == cri.NamespaceMode_NODE {
		in.Namespaces.IPC, in.Shm = oci.Host, "/dev/shm"
	}
	return in
}

// pidNamespace answers which PID namespace a container joins.
func (s *Server) pidNamespace(sb *sandbox, config *cri.ContainerConfig) (string, error) {
	opts := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if opts == nil {
		opts = nsOptions(sb.config)
	}
	holder := ""
	switch opts.GetPid() {
	case cri.NamespaceMode_NODE:
		return oci.Host, nil
	case cri.NamespaceMode_CONTAINER:
		return "", nil
	case cri.NamespaceMode_TARGET:
		target, err := s.container(opts.GetTargetId())
		if err != nil {
			return "", fmt.Errorf("target of the PID namespace: %w", err)
		}
		if target.snapshot().SandboxID != sb.rec.ID {
			return "", fmt.Errorf("target %s of the PID namespace is in another sandbox: %w", opts.GetTargetId(), oci.ErrInvalid)
		}
		holder = target.rec.ID
	case cri.NamespaceMode_POD:
		if holder = sb.snapshot().Pause; holder == "" {
			return "", nil // the sandbox was not made for it (crictl's defaults)
		}
	}
	c, err := s.container(holder)
	if err != nil {
		return "", err
	}
	rec := c.snapshot()
	if !alive(rec.Pid, rec.PidStart) {
		return "", fmt.Errorf("container %s, whose PID namespace is to be shared, does not run: %w", holder, errState)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", rec.Pid), nil
}

// StartContainer starts the created process.
func (s *Server) StartContainer(ctx context.Context, req *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, rpcError(err)
	}
	begin := time.Now()
	if err := s.startContainer(ctx, c); err != nil {
		return nil, rpcError(fmt.Errorf("start container %s: %w", c.rec.ID, err))
	}
	s.metrics.observe("start_container", begin)
	return &cri.StartContainerResponse{}, nil
}

func (s *Server) startContainer(ctx context.Context, c *container) error {
	c.op.Lock()
	defer c.op.Unlock()
	rec := c.snapshot()
	if rec.Phase != phaseCreated {
		return fmt.Errorf("it is %s, not created: %w", rec.Phase, errState)
	}
	if err := s.runtimeCommand(context.WithoutCancel(ctx), rec.Runtime, "start", rec.ID); err != nil {
		// It will not run any more: end it, so that its exit is reported.
		_ = s.host.Kill(ctx, rec.CgroupPath)
		if uerr := s.update(c, func(r *containerRecord) { r.Reason, r.Message = "StartError", err.Error() }); uerr != nil {
			s.log.Error("State of a container is not on disk", "container", rec.ID, "err", uerr)
		}
		return err
	}
	if err := s.update(c, func(r *containerRecord) { r.Phase, r.StartedAt = phaseRunning, time.Now().UnixNano() }); err != nil {
		return err
	}
	sb, _ := s.sandbox(rec.SandboxID)
	if !rec.Hidden {
		s.emit(cri.ContainerEventType_CONTAINER_STARTED_EVENT, rec.ID, sb)
	}
	return nil
}

func (s *Server) container(id string) (*container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return byIdentity(s.containers, "container", id)
}

// byIdentity finds by an identity, or by an unambiguous beginning of one.
func byIdentity[T any](all map[string]*T, what, id string) (*T, error) {
	if found, ok := all[id]; ok {
		return found, nil
	}
	var found *T
	for full, one := range all {
		if len(id) >= 7 && strings.HasPrefix(full, id) {
			if found != nil {
				return nil, fmt.Errorf("%s %q: several identities begin so: %w", what, id, errNotFound)
			}
			found = one
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s %q: %w", what, id, errNotFound)
	}
	return found, nil
}

// containersOf lists a sandbox's containers, its own process excepted.
func (s *Server) containersOf(sandboxID string) []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*container
	for _, c := range s.containers {
		if c.rec.SandboxID == sandboxID && !c.rec.Hidden {
			out = append(out, c)
		}
	}
	return out
}
