package exec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"keelson.dev/keelson/plugins/kit"
)

// Files in FILES_DIR.
const (
	kubeconfigFile = "kubeconfig"
	caFile         = "ca.crt"
	// clientFile has certificate and key, so that one rename replaces both.
	clientFile = "client.pem"
	filesDir   = "files-" // and the plugin's process number: two processes of a plugin do not share it
)

// owner is whom the program runs as; nil is who the plugin runs as.
type owner struct{ uid, gid int }

func (c *Config) owner() (*owner, *field.Error) {
	if c.User == "" && c.Group == "" {
		return nil, nil
	}
	o := &owner{os.Geteuid(), os.Getegid()}
	if c.User != "" {
		number, err := strconv.ParseUint(c.User, 10, 31)
		o.uid = int(number)
		if err == nil { // its group is the one that is given, or of the same number
			o.gid = o.uid
		} else if u, err := user.Lookup(c.User); err != nil {
			return nil, field.Invalid(field.NewPath("user"), c.User, "must be a number, or a user of this node: "+err.Error())
		} else {
			o.uid, _ = strconv.Atoi(u.Uid)
			o.gid, _ = strconv.Atoi(u.Gid)
		}
	}
	if c.Group != "" {
		number, err := strconv.ParseUint(c.Group, 10, 31)
		o.gid = int(number)
		if err == nil {
			return o, nil
		}
		g, err := user.LookupGroup(c.Group)
		if err != nil {
			return nil, field.Invalid(field.NewPath("group"), c.Group, "must be a number, or a group of this node: "+err.Error())
		}
		o.gid, _ = strconv.Atoi(g.Gid)
	}
	return o, nil
}

// folder makes the program's FILES_DIR, and removes those that killed processes left.
func folder(env *kit.Env) (string, error) {
	old, _ := filepath.Glob(filepath.Join(env.RunDir, filesDir+"*"))
	for _, dir := range old {
		if _, err := os.Stat("/proc/" + strings.TrimPrefix(filepath.Base(dir), filesDir)); errors.Is(err, fs.ErrNotExist) {
			_ = os.RemoveAll(dir)
		}
	}
	dir := filepath.Join(env.RunDir, filesDir+strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the program's folder: %w", err)
	}
	return dir, nil
}

// prepare writes all files of the program, and gives its folders to whom it runs as.
func (s *Server) prepare() error {
	if s.env.API.Server != "" {
		if err := s.writeCredentials(); err != nil {
			return err
		}
	}
	for _, f := range s.cfg.Files {
		path, bits := f.Path, uint64(0)
		if !filepath.IsAbs(path) {
			path = filepath.Join(s.dir, path)
		}
		bits, err := strconv.ParseUint(f.Mode, 8, 32)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o700)
		}
		if err == nil && f.Link != "" {
			err = link(f.Link, path)
		} else if err == nil {
			err = s.write(path, []byte(f.Content), fs.FileMode(bits))
		}
		if err != nil {
			return fmt.Errorf("write file %s: %w", f.Path, err)
		}
	}
	if err := os.MkdirAll(s.cfg.WorkingDir, 0o700); err != nil {
		return fmt.Errorf("make the working folder: %w", err)
	}
	if err := errors.Join(s.note(), makeCgroups(s.cfg.Cgroups)); err != nil {
		return err
	}
	if s.owner == nil {
		return nil
	}
	for _, dir := range []string{s.dir, s.env.RunDir, s.env.DataDir} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, s.owner.uid, s.owner.gid)
		})
		if err != nil {
			return fmt.Errorf("give the program's files to its user: %w", err)
		}
	}
	return nil
}

// link makes a symbolic link, in place of one that is there.
func link(to, path string) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(os.Symlink(to, temp), os.Rename(temp, path))
}

// writeCredentials writes a kubeconfig that names files, since clients of client-go look
// at those again, and not at what is within a kubeconfig.
func (s *Server) writeCredentials() error {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	pem := append(append([]byte(nil), client.Certificate...), client.PrivateKey...)
	config := clientcmdapi.NewConfig()
	const name = "keelson"
	config.Clusters[name] = &clientcmdapi.Cluster{Server: s.env.API.Server, CertificateAuthority: s.vars["API_CA"]}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificate: s.vars["CLIENT_CERT"], ClientKey: s.vars["CLIENT_CERT"]}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	text, err := clientcmd.Write(*config)
	if err == nil {
		err = errors.Join(s.write(s.vars["API_CA"], s.env.API.CA, 0o600), s.write(s.vars["CLIENT_CERT"], pem, 0o600),
			s.write(s.vars["KUBECONFIG"], text, 0o600))
	}
	if err != nil {
		return fmt.Errorf("write the program's kubeconfig: %w", err)
	}
	return nil
}

// write replaces a file in one step; it is the program's at once.
func (s *Server) write(path string, data []byte, mode fs.FileMode) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, data, mode); err != nil {
		return err
	}
	err := os.Chmod(temp, mode) // whatever the umask, or a file of that name, says
	if err == nil && s.owner != nil {
		err = os.Chown(temp, s.owner.uid, s.owner.gid)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// placed refuses files that would lie elsewhere than in the plugin's folders.
func (s *Server) placed() error {
	var errs field.ErrorList
	for i, f := range s.cfg.Files {
		path := f.Path
		if !filepath.IsAbs(path) {
			path = filepath.Join(s.dir, path)
		}
		clean, within := filepath.Clean(path), false
		for _, dir := range []string{s.env.RunDir, s.env.DataDir} {
			within = within || strings.HasPrefix(clean, filepath.Clean(dir)+"/")
		}
		if !within {
			errs = append(errs, field.Invalid(field.NewPath("files").Index(i).Child("path"), f.Path, "must be below ${RUN_DIR} or ${DATA_DIR}"))
		}
	}
	return kit.FieldErrors(errs)
}

// makeCgroups makes groups in every hierarchy. Of cgroup v1, one of cpuset takes no
// process before it has CPUs and memory: it gets those of its parent.
func makeCgroups(groups []string) error {
	if len(groups) == 0 {
		return nil
	}
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		for _, group := range groups {
			dir := root.Mountpoint
			for part := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
				parent := dir
				dir = filepath.Join(dir, part)
				if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
					return fmt.Errorf("make cgroup %s: %w", group, err)
				}
				for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
					if root.FSType == "cgroup" {
						inherit(parent, dir, file)
					}
				}
			}
		}
	}
	return nil
}

// inherit copies a setting that is empty; hierarchies without it have no such file.
func inherit(parent, dir, file string) {
	if own, err := os.ReadFile(filepath.Join(dir, file)); err != nil || strings.TrimSpace(string(own)) != "" {
		return
	}
	if theirs, err := os.ReadFile(filepath.Join(parent, file)); err == nil {
		_ = os.WriteFile(filepath.Join(dir, file), theirs, 0o644) // the program's own attempt says what is wrong
	}
}

// checkCommand refuses a file that cannot be what an administrator meant.
func (c *Config) checkCommand() error {
	fault := func(format string, args ...any) error {
		return kit.FieldErrors(field.ErrorList{field.Invalid(field.NewPath("command"), c.Command, fmt.Sprintf(format, args...))})
	}
	info, err := os.Stat(c.Command)
	switch {
	case err != nil:
		return fmt.Errorf("command: %w", err) // may come: the kernel tries again
	case !info.Mode().IsRegular():
		return fault("is not a file")
	case info.Mode()&0o111 == 0:
		return fault("is not executable (mode %04o)", info.Mode().Perm())
	case info.Mode()&0o022 != 0:
		return fault("can be written by others than its owner (mode %04o): chmod go-w", info.Mode().Perm())
	case c.SHA256 == "":
		return nil
	}
	sum, err := checksumOf(c.Command)
	if err != nil {
		return fmt.Errorf("command: %w", err)
	}
	if sum != c.SHA256 {
		return fmt.Errorf("sha256: %s has checksum %s, want %s", c.Command, sum, c.SHA256)
	}
	return nil
}
