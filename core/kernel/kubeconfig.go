package kernel

import (
	"bytes"
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"keelson.dev/keelson/core/atomicfile"
	"keelson.dev/keelson/core/pki"
)

// AdminKubeconfig is the file below the data folder with which the administrator
// uses the cluster.
const AdminKubeconfig = "admin.kubeconfig"

// writeKubeconfig writes a kubeconfig with one cluster and one user.
func writeKubeconfig(path, server string, ca []byte, pair pki.KeyPair) error {
	cfg := clientcmdapi.NewConfig()
	cluster := clientcmdapi.NewCluster()
	cluster.Server, cluster.CertificateAuthorityData = server, ca
	user := clientcmdapi.NewAuthInfo()
	user.ClientCertificateData, user.ClientKeyData = pair.Certificate, pair.PrivateKey
	context := clientcmdapi.NewContext()
	context.Cluster, context.AuthInfo = "keelson", "keelson"
	cfg.Clusters["keelson"], cfg.AuthInfos["keelson"], cfg.Contexts["keelson"] = cluster, user, context
	cfg.CurrentContext = "keelson"
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return writeFile(path, data)
}

// writeFile writes a file, 0600, and leaves it alone if it has that content.
func writeFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return atomicfile.Write(path, data, 0o600)
}
