package encryption

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/core/atomicfile"
)

// keySize is what secretbox takes, in bytes.
const keySize = 32

// header tells a reader of the file whose it is.
const header = `# Kept by Keelson. Everything in the cluster's Secrets can be read with these keys:
# guard them as the cluster CA's key. keelson backup has them beside that key.
# keelson encryption rotate makes a new key.
`

// State is what a file of Keelson's own says.
type State struct {
	// Encrypts says whether Secrets are written encrypted; if not, the keys only read.
	Encrypts bool
	// Keys are the names of the keys, the one that writes first.
	Keys []string
}

// Ensure makes the file if it is missing, and brings it in line with encrypt:
// whether Secrets are to be written encrypted. What was written the other way
// stays readable. The file is not touched if it says so already.
func Ensure(path string, encrypt bool) error {
	c, err := read(path)
	if errors.Is(err, os.ErrNotExist) {
		if !encrypt {
			return nil // nothing was ever encrypted
		}
		key, err := newKey()
		if err != nil {
			return err
		}
		return write(path, encrypt, []apiserverv1.Key{key})
	}
	if err != nil {
		return err
	}
	if c.encrypts == encrypt {
		return nil
	}
	return write(path, encrypt, c.keys)
}

// Read tells what the file says.
func Read(path string) (State, error) {
	c, err := read(path)
	if err != nil {
		return State{}, err
	}
	s := State{Encrypts: c.encrypts}
	for _, k := range c.keys {
		s.Keys = append(s.Keys, k.Name)
	}
	return s, nil
}

// Rotate puts a new key first. The others go on reading.
func Rotate(path string) error {
	c, err := read(path)
	if err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	for _, old := range c.keys {
		if old.Name == key.Name {
			return fmt.Errorf("%s: the key %s was made this very second: try again", path, key.Name)
		}
	}
	return write(path, c.encrypts, append([]apiserverv1.Key{key}, c.keys...))
}

// Prune removes all keys but the one that writes. Objects that only those can
// read would be lost: write all Secrets anew before.
func Prune(path string) error {
	c, err := read(path)
	if err != nil {
		return err
	}
	return write(path, c.encrypts, c.keys[:1])
}

type config struct {
	encrypts bool
	keys     []apiserverv1.Key
}

func read(path string) (config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return config{}, err
	}
	return parse(path, data)
}

// parse accepts what write writes, nothing else.
func parse(path string, data []byte) (config, error) {
	notOurs := func(why string) error {
		return fmt.Errorf("%s is not as Keelson wrote it (%s): put back a copy; without its keys no Secret can be read", path, why)
	}
	var file apiserverv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return config{}, notOurs(err.Error())
	}
	if len(file.Resources) != 1 || len(file.Resources[0].Resources) != 1 || file.Resources[0].Resources[0] != "secrets" {
		return config{}, notOurs("it must be about secrets only")
	}
	var c config
	for i, p := range file.Resources[0].Providers {
		switch {
		case p.Secretbox != nil && c.keys == nil:
			c.keys = p.Secretbox.Keys
			c.encrypts = i == 0
		case p.Identity != nil:
		default:
			return config{}, notOurs("its providers must be secretbox and identity")
		}
	}
	if len(c.keys) == 0 {
		return config{}, notOurs("it has no key")
	}
	for _, k := range c.keys {
		if raw, err := base64.StdEncoding.DecodeString(k.Secret); err != nil || len(raw) != keySize || k.Name == "" {
			return config{}, notOurs(fmt.Sprintf("key %q is not %d bytes in base64", k.Name, keySize))
		}
	}
	return c, nil
}

func write(path string, encrypts bool, keys []apiserverv1.Key) error {
	providers := []apiserverv1.ProviderConfiguration{
		{Secretbox: &apiserverv1.SecretboxConfiguration{Keys: keys}},
		{Identity: &apiserverv1.IdentityConfiguration{}},
	}
	if !encrypts {
		providers[0], providers[1] = providers[1], providers[0]
	}
	data, err := yaml.Marshal(apiserverv1.EncryptionConfiguration{
		TypeMeta:  metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "EncryptionConfiguration"},
		Resources: []apiserverv1.ResourceConfiguration{{Resources: []string{"secrets"}, Providers: providers}},
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(path, append([]byte(header), data...), 0o600)
}

// newKey is named for the moment it was made, in UTC.
func newKey() (apiserverv1.Key, error) {
	raw := make([]byte, keySize)
	if _, err := rand.Read(raw); err != nil {
		return apiserverv1.Key{}, err
	}
	return apiserverv1.Key{Name: time.Now().UTC().Format("20060102-150405"), Secret: base64.StdEncoding.EncodeToString(raw)}, nil
}
