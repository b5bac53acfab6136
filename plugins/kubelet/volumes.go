package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
)

// volumes makes, refreshes and removes what pods mount, below dir/<pod UID>.
type volumes struct {
	dir         string
	objects     objectGetter
	tokens      *tokens
	nodeName    string
	allocatable func() corev1.ResourceList
}

// mountedVolume is a volume that containers can mount.
type mountedVolume struct {
	Path     string
	Managed  bool // this process writes its content
	ReadOnly bool
}

// volumeError is why one volume is not there.
type volumeError struct {
	Volume string
	Err    error
}

func (e *volumeError) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}
func (e *volumeError) Unwrap() error { return e.Err }

func (v *volumes) podDir(uid types.UID) string { return filepath.Join(v.dir, string(uid)) }

func (v *volumes) volumeDir(uid types.UID, plugin, name string) string {
	return filepath.Join(v.podDir(uid), "volumes", "kubernetes.io~"+plugin, name)
}

// setUp makes all volumes of a pod, or brings their content up to date; it may be called again at any time. It returns when the content has
// to be looked at again because a token ages (zero: never).
func (v *volumes) setUp(ctx context.Context, pod *corev1.Pod) (map[string]mountedVolume, time.Time, error) {
	if err := os.MkdirAll(v.podDir(pod.UID), 0o750); err != nil {
		return nil, time.Time{}, fmt.Errorf("create pod folder: %w", err)
	}
	var mu sync.Mutex // guards out, again
	out := map[string]mountedVolume{}
	var again time.Time
	g, gctx := errgroup.WithContext(ctx)
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		g.Go(func() error {
			m, refresh, err := v.setUpOne(gctx, pod, vol)
			if err != nil {
				return &volumeError{vol.Name, err}
			}
			mu.Lock()
			defer mu.Unlock()
			out[vol.Name] = m
			if !refresh.IsZero() && (again.IsZero() || refresh.Before(again)) {
				again = refresh
			}
			return nil
		})
	}
	err := g.Wait()
	return out, again, err
}

func (v *volumes) setUpOne(ctx context.Context, pod *corev1.Pod, vol *corev1.Volume) (mountedVolume, time.Time, error) {
	var none time.Time
	switch {
	case vol.EmptyDir != nil:
		path := v.volumeDir(pod.UID, "empty-dir", vol.Name)
		return mountedVolume{Path: path}, none, v.emptyDir(pod, vol.EmptyDir, path)
	case vol.HostPath != nil:
		return mountedVolume{Path: vol.HostPath.Path}, none, hostPath(vol.HostPath)
	case vol.ConfigMap != nil:
		files, err := v.configMapFiles(ctx, pod.Namespace, vol.ConfigMap.Name, vol.ConfigMap.Items, vol.ConfigMap.DefaultMode, vol.ConfigMap.Optional)
		return v.managed(pod, "configmap", vol.Name, false, files, none, err)
	case vol.Secret != nil:
		files, err := v.secretFiles(ctx, pod.Namespace, vol.Secret.SecretName, vol.Secret.Items, vol.Secret.DefaultMode, vol.Secret.Optional)
		return v.managed(pod, "secret", vol.Name, true, files, none, err)
	case vol.DownwardAPI != nil:
		files, err := v.downwardFiles(pod, vol.DownwardAPI.Items, vol.DownwardAPI.DefaultMode)
		return v.managed(pod, "downward-api", vol.Name, true, files, none, err)
	case vol.Projected != nil:
		files, again, err := v.projectedFiles(ctx, pod, vol.Projected)
		return v.managed(pod, "projected", vol.Name, true, files, again, err)
	}
	return mountedVolume{}, none, fmt.Errorf("volumes of kind %s are not supported by this kubelet", volumeKind(vol))
}

func volumeKind(vol *corev1.Volume) string {
	switch {
	case vol.PersistentVolumeClaim != nil:
		return "persistentVolumeClaim"
	case vol.CSI != nil:
		return "csi"
	case vol.Ephemeral != nil:
		return "ephemeral"
	case vol.Image != nil:
		return "image"
	case vol.NFS != nil:
		return "nfs"
	}
	return "other than emptyDir, hostPath, configMap, secret, downwardAPI and projected"
}

// managed writes a volume's files; tmpfs keeps secrets off the disk.
func (v *volumes) managed(pod *corev1.Pod, plugin, name string, tmpfs bool, files map[string]payloadFile, again time.Time, err error) (mountedVolume, time.Time, error) {
	path := v.volumeDir(pod.UID, plugin, name)
	if err != nil {
		return mountedVolume{}, again, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return mountedVolume{}, again, err
	}
	if tmpfs {
		if err := mountTmpfs(path, 0, 0o755); err != nil {
			return mountedVolume{}, again, err
		}
	}
	group := fsGroup(pod)
	if group != nil {
		if err := os.Chown(path, -1, int(*group)); err != nil {
			return mountedVolume{}, again, err
		}
	}
	if err := unix.Chmod(path, 0o777|setgid(group)); err != nil {
		return mountedVolume{}, again, err
	}
	if _, err := writePayload(path, files, group); err != nil {
		return mountedVolume{}, again, err
	}
	return mountedVolume{Path: path, Managed: true, ReadOnly: true}, again, nil
}

func fsGroup(pod *corev1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

func setgid(group *int64) uint32 {
	if group == nil {
		return 0
	}
	return unix.S_ISGID
}

func (v *volumes) emptyDir(pod *corev1.Pod, src *corev1.EmptyDirVolumeSource, path string) error {
	switch src.Medium {
	case corev1.StorageMediumDefault, corev1.StorageMediumMemory:
	default:
		return fmt.Errorf("emptyDir medium %q is not supported by this kubelet", src.Medium)
	}
	_, err := os.Stat(path)
	existed := err == nil
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if src.Medium == corev1.StorageMediumMemory {
		mounted, err := mountinfo.Mounted(path)
		if err != nil {
			return err
		}
		existed = mounted
		if err := mountTmpfs(path, memoryLimit(pod, src), 0o777); err != nil {
			return err
		}
	}
	if existed {
		return nil // what the pod made of it stays
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	if group := fsGroup(pod); group != nil {
		return setGroup(path, *group, false)
	}
	return nil
}

// memoryLimit is the size of a memory volume: its limit, at most the pod's memory limit; 0 is the kernel's default (half of the memory).
func memoryLimit(pod *corev1.Pod, src *corev1.EmptyDirVolumeSource) int64 {
	size := int64(0)
	if lim := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{}); !lim.Memory().IsZero() {
		size = lim.Memory().Value()
	}
	if src.SizeLimit != nil && src.SizeLimit.Value() > 0 && (size == 0 || src.SizeLimit.Value() < size) {
		size = src.SizeLimit.Value()
	}
	return size
}

func mountTmpfs(path string, size int64, mode uint32) error {
	mounted, err := mountinfo.Mounted(path)
	if err != nil || mounted {
		return err
	}
	options := fmt.Sprintf("mode=%o", mode)
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", path, err)
	}
	return nil
}

// hostPath checks, and for the types that say so makes, a path of the node.
func hostPath(src *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if src.Type != nil {
		kind = *src.Type
	}
	if kind == corev1.HostPathUnset {
		return nil
	}
	info, err := os.Stat(src.Path)
	if errors.Is(err, fs.ErrNotExist) {
		switch kind {
		case corev1.HostPathDirectoryOrCreate:
			return os.MkdirAll(src.Path, 0o755)
		case corev1.HostPathFileOrCreate:
			f, err := os.OpenFile(src.Path, os.O_CREATE, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
	} else if err != nil {
		return err
	}
	mode := fs.FileMode(0)
	if info != nil {
		mode = info.Mode()
	}
	ok, what := info != nil, ""
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok, what = ok && mode.IsDir(), "a directory"
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok, what = ok && mode.IsRegular(), "a file"
	case corev1.HostPathSocket:
		ok, what = ok && mode&fs.ModeSocket != 0, "a socket file"
	case corev1.HostPathCharDev:
		ok, what = ok && mode&fs.ModeCharDevice != 0, "a character device"
	case corev1.HostPathBlockDev:
		ok, what = ok && mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "a block device"
	default:
		return fmt.Errorf("hostPath type %q is not known", kind)
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not %s", src.Path, what)
	}
	return nil
}

// tearDown unmounts and removes everything of a pod below its folder.
func (v *volumes) tearDown(uid types.UID) error {
	v.tokens.forget(uid)
	return removeTree(v.podDir(uid))
}

// removeTree unmounts all below dir, deepest first, and removes it. It never reaches through a mount: if one stays, nothing is removed.
func removeTree(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for range 8 { // mounts may be stacked
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return fmt.Errorf("list mounts below %s: %w", dir, err)
		}
		if len(mounts) == 0 {
			return os.RemoveAll(dir)
		}
		slices.SortFunc(mounts, func(a, b *mountinfo.Info) int { return len(b.Mountpoint) - len(a.Mountpoint) })
		for _, m := range mounts {
			if err := unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW); err == nil || errors.Is(err, unix.EINVAL) {
				continue
			}
			if err := unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
			}
		}
	}
	return fmt.Errorf("remove %s: mounts keep appearing below it", dir)
}
