package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keelson.dev/keelson/core/atomicfile"
)

const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
	blockECKey       = "EC PRIVATE KEY"
	blockPublicKey   = "PUBLIC KEY"
)

// openDir makes dir, or takes away what others may do in it.
func openDir(dir string) error {
	if dir == "" {
		return errors.New("no directory given for certificates")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make certificate directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("certificate directory: %w", err)
	}
	if info.Mode().Perm() != 0o700 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("close certificate directory to others: %w", err)
		}
	}
	return nil
}

// readFile returns nil without an error when there is no such file.
func readFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w (it must be readable by the user that runs keelson)", err)
	}
	if len(data) == 0 {
		return nil, damaged(path, "it is empty")
	}
	return data, nil
}

func damaged(path, why string) error {
	return fmt.Errorf("%s is damaged: %s; put it back from a backup, or remove the whole directory %s to begin "+
		"with a new authority (all certificates and kubeconfigs issued so far become void)", path, why, filepath.Dir(path))
}

// loadKey reads the key at path, or makes one there.
func loadKey(path string) (key *ecdsa.PrivateKey, made bool, err error) {
	data, err := readFile(path)
	if err != nil {
		return nil, false, err
	}
	if data != nil {
		key, err := parseKey(path, data)
		return key, false, err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, false, fmt.Errorf("generate key: %w", err)
	}
	data, err = encodeKey(key)
	if err != nil {
		return nil, false, err
	}
	return key, true, atomicfile.Write(path, data, 0o600)
}

func parseKey(path string, data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, damaged(path, "no PEM block in it")
	}
	var parsed any
	var err error
	switch block.Type {
	case blockKey:
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case blockECKey:
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, damaged(path, fmt.Sprintf("its PEM block is a %q, not a private key", block.Type))
	}
	if err != nil {
		return nil, damaged(path, err.Error())
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, damaged(path, fmt.Sprintf("its key is a %T, want ECDSA P-256", parsed))
	}
	return key, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der}), nil
}

func parseCertificate(path string, data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != blockCertificate {
		return nil, damaged(path, "no PEM certificate in it")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, damaged(path, err.Error())
	}
	return cert, nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der})
}
