package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/runtime/internal/oci"
)

// pauseName is the name under which this binary is the first process of a PID
// namespace that a pod's containers share.
const pauseName = "keelson-pause"

// executable finds this binary. It has to be linked statically: it runs in a root that has nothing else.
var executable = os.Executable

func init() {
	if len(os.Args) == 1 && os.Args[0] == pauseName {
		pause()
	}
}

// pause reaps what the pod's processes leave, until it is told to end.
func pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT)
	for s := range signals {
		if s != syscall.SIGCHLD {
			os.Exit(0)
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

// startPause runs the sandbox's own process, which holds the shared PID
// namespace: this binary, under conmon like any container.
func (s *Server) startPause(ctx context.Context, sb *sandbox) error {
	self, err := executable()
	if err != nil {
		return err
	}
	id := newID()
	root := filepath.Join(s.bundleDir(id), "rootfs")
	for _, dir := range []string{root, s.containerDir(id)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: pauseName},
		Command:  []string{pauseName},
		Linux: &cri.LinuxContainerConfig{
			Resources:       &cri.LinuxContainerResources{CpuShares: 2, OomScoreAdj: -998},
			SecurityContext: &cri.LinuxContainerSecurityContext{ReadonlyRootfs: true, NoNewPrivs: true, Capabilities: &cri.Capability{DropCapabilities: []string{"ALL"}}},
		},
	}
	data, err := encode(config)
	if err != nil {
		return err
	}
	c := &container{config: config, exited: make(chan struct{}), rec: containerRecord{
		ID: id, SandboxID: sb.rec.ID, Hidden: true, Config: data, CgroupPath: filepath.Join(sb.rec.CgroupParent, id),
		Phase: phaseCreating, CreatedAt: time.Now().UnixNano(), StopSignal: "SIGTERM",
	}}
	if err := s.update(c, func(*containerRecord) {}); err != nil {
		return err
	}
	if err := s.updateSandbox(sb, func(r *sandboxRecord) { r.Pause = id }); err != nil {
		return err
	}
	in := s.specInput(sb, c, root)
	in.Image = &v1.ConfigFile{}
	result, err := oci.Build(in)
	if err != nil {
		return err
	}
	result.Spec.Process.Args = []string{pauseName}
	result.Spec.Mounts = append(result.Spec.Mounts, specs.Mount{Destination: "/usr/bin/" + pauseName, Type: "bind", Source: self, Options: []string{"bind", "ro"}})
	if err := s.launch(ctx, c, result); err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		return errors.Join(fmt.Errorf("start the sandbox's process: %w", err), s.discard(clean, c))
	}
	s.adopt(c)
	return s.startContainer(ctx, c)
}
