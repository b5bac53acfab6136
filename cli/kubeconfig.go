package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"keelson.dev/keelson/core/atomicfile"
)

// contextName is the name of our context, cluster and user in kubeconfigs.
const contextName = "keelson"

// kubeconfigFile is a kubeconfig to merge into, and who owns it.
type kubeconfigFile struct {
	path     string
	uid, gid int
}

// kubeconfigFiles are those of the user who runs this and, under sudo, of the
// one who called it. KUBECONFIG, where set, is the only one.
func kubeconfigFiles() ([]kubeconfigFile, error) {
	if env := filepath.SplitList(os.Getenv("KUBECONFIG")); len(env) > 0 && env[0] != "" {
		return []kubeconfigFile{{env[0], -1, -1}}, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("home folder: %w", err)
	}
	files := []kubeconfigFile{{filepath.Join(home, ".kube", "config"), -1, -1}}
	name := os.Getenv("SUDO_USER")
	if name == "" || name == "root" {
		return files, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return files, nil //nolint:nilerr // no such user here: root's kubeconfig is enough
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return append(files, kubeconfigFile{filepath.Join(u.HomeDir, ".kube", "config"), uid, gid}), nil
}

// mergeKubeconfigs puts the cluster of the admin kubeconfig into the user's own
// files, as their current context, and says which they are.
func mergeKubeconfigs(admin string) ([]string, error) {
	from, err := clientcmd.LoadFromFile(admin)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", admin, err)
	}
	files, err := kubeconfigFiles()
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, file := range files {
		if sameFile(file.path, admin) {
			continue
		}
		err := editKubeconfig(file, func(to *clientcmdapi.Config) {
			for _, c := range from.Contexts {
				to.Contexts[contextName] = clientcmdapi.NewContext()
				to.Contexts[contextName].Cluster, to.Contexts[contextName].AuthInfo = contextName, contextName
				to.Clusters[contextName], to.AuthInfos[contextName] = from.Clusters[c.Cluster], from.AuthInfos[c.AuthInfo]
			}
			to.CurrentContext = contextName
		})
		if err != nil {
			return nil, err
		}
		paths = append(paths, file.path)
	}
	if len(paths) == 0 {
		paths = []string{admin}
	}
	return paths, nil
}

// dropKubeconfigs takes our context out of the user's files again, if it leads
// to the cluster of that admin kubeconfig.
func dropKubeconfigs(admin string) error {
	ours, err := clientcmd.LoadFromFile(admin)
	if err != nil {
		return nil //nolint:nilerr // never fully started: nothing was merged
	}
	files, err := kubeconfigFiles()
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		if _, err := os.Stat(file.path); err != nil || sameFile(file.path, admin) {
			continue
		}
		errs = append(errs, editKubeconfig(file, func(c *clientcmdapi.Config) {
			cluster := c.Clusters[contextName]
			for _, own := range ours.Clusters {
				if cluster == nil || string(cluster.CertificateAuthorityData) != string(own.CertificateAuthorityData) {
					return
				}
			}
			delete(c.Clusters, contextName)
			delete(c.AuthInfos, contextName)
			delete(c.Contexts, contextName)
			if c.CurrentContext == contextName {
				c.CurrentContext = ""
			}
		}))
	}
	return errors.Join(errs...)
}

// editKubeconfig changes one file, makes it where it is missing, and removes it
// where nothing is left in it.
func editKubeconfig(file kubeconfigFile, edit func(*clientcmdapi.Config)) error {
	cfg, err := clientcmd.LoadFromFile(file.path)
	if errors.Is(err, os.ErrNotExist) {
		cfg = clientcmdapi.NewConfig()
	} else if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", file.path, err)
	}
	edit(cfg)
	if len(cfg.Clusters)+len(cfg.Contexts)+len(cfg.AuthInfos) == 0 {
		return os.Remove(file.path)
	}
	dir := filepath.Dir(file.path)
	_, missing := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", file.path, err)
	}
	if err := atomicfile.Write(file.path, data, 0o600); err != nil {
		return err
	}
	if file.uid < 0 {
		return nil
	}
	if missing != nil {
		if err := os.Chown(dir, file.uid, file.gid); err != nil {
			return err
		}
	}
	return os.Chown(file.path, file.uid, file.gid)
}

func sameFile(a, b string) bool {
	sa, errA := os.Stat(a)
	sb, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(sa, sb)
}
