package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/core/store"
)

// run executes a command line of keelson.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	root := newRoot(streams)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	root.SilenceUsage, root.SilenceErrors = true, true
	err = root.ExecuteContext(t.Context())
	return out.String(), errOut.String(), err
}

// dataFolder is one of a server that does not run, with n objects in its store, an authority and keys of encryption.
func dataFolder(t *testing.T, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	err := store.Import(t.Context(), store.Options{Dir: filepath.Join(dir, "store")}, 99, 100, func(add func(*store.Object) error) error {
		for i := range n {
			name := string(rune('a' + i))
			value := `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"` + name + `","namespace":"shop"}}`
			if err := add(&store.Object{Key: "/registry/configmaps/shop/" + name, Value: []byte(value), Create: uint64(i + 2), Mod: uint64(i + 2)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pki", "ca.key"), []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := encryption.Ensure(encryption.File(filepath.Join(dir, kernel.EncryptionDir)), true); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestBackupRefuses is about what cannot be meant: the error says what would be right, and no file is left.
func TestBackupRefuses(t *testing.T) {
	dir, runDir := dataFolder(t, 2), "--run-dir="+t.TempDir()
	out := t.TempDir()
	good, part, text := filepath.Join(out, "good"), filepath.Join(out, "part"), filepath.Join(out, "text")
	for _, args := range [][]string{{"backup", good}, {"backup", "--namespace=shop", part}} {
		if _, _, err := run(t, append(args, "--data-dir="+dir, runDir)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(text, []byte("this is no backup, but it is longer than a magic number"), 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := "--data-dir=" + filepath.Join(out, "fresh")
	for _, tt := range []struct {
		args string
		want string
	}{
		{"backup", "accepts 1 arg(s), received 0"},
		{"backup a b", "accepts 1 arg(s), received 2"},
		{"backup new --format=tar", `--format "tar": must be keelson or etcd`},
		{"backup new --decrypt", "--decrypt goes with --format=etcd"},
		{"backup new --decrypt --format=etcd --no-pki", "--decrypt needs the keys"},
		{"backup new --decrypt --format=etcd --namespace=shop", "--decrypt needs the keys"},
		{"backup new " + fresh, "holds no store"},
		{"backup /nowhere/new --data-dir=" + dir, "/nowhere"},
		{"backup verify", "accepts 1 arg(s), received 0"},
		{"backup verify nothing", "nothing: no such file"},
		{"backup verify " + text, text},
		{"restore", "accepts 1 arg(s), received 0"},
		{"restore nothing " + fresh, "nothing: no such file"},
		{"restore " + text + " " + fresh, text},
		{"restore " + good + " --format=zip", `--format "zip": must be keelson or etcd`},
		{"restore " + good + " --format=etcd " + fresh, "has format keelson"},
		{"restore " + good + " --dry-run", "--dry-run, --keep-existing and --encryption-keys go with"},
		{"restore " + good + " --encryption-keys=x", "--dry-run, --keep-existing and --encryption-keys go with"},
		{"restore " + good + " --namespace=shop --force", "--force and --no-pki go with"},
		{"restore " + good + " --namespace=shop --encryption-keys=nothing", "--encryption-keys: open nothing"},
		{"restore " + good + " --namespace=shop --encryption-keys=" + text, "not as Keelson wrote it"},
		{"restore " + good + " --bump-revision=0 " + fresh, "--bump-revision 0: must be at least 1"},
		{"restore " + good + " --data-dir=" + dir, "use --force to move it aside"},
		{"restore " + part + " " + fresh, "backup is of one namespace only"},
		{"datastore migrate", `--to "": must be etcd or badger`},
		{"datastore migrate --to=mysql", `--to "mysql": must be etcd or badger`},
		{"datastore migrate --to=etcd --data-dir=" + dir, "--etcd-servers: must name the etcd"},
		{"datastore migrate --to=etcd --etcd-servers=host --data-dir=" + dir, `--etcd-servers "host": must be a URL`},
		{"store check x", `unknown command "x"`},
		{"store check " + fresh, "holds no store"},
		{"store check --data-dir=/", "must be a folder of its own"},
		{"encryption status " + fresh, "does not exist"},
		{"encryption rotate " + fresh, "does not exist"},
		{"encryption prune --data-dir=" + dir, "not all Secrets have been written with the first key yet"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Chdir(out)
			args := strings.Fields(tt.args)
			if len(args) > 1 && args[1] != "verify" && args[0] != "store" {
				args = append(args, runDir)
			}
			stdout, stderr, err := run(t, args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error should have %q: %v\n%s%s", tt.want, err, stdout, stderr)
			}
			if left, _ := filepath.Glob(filepath.Join(out, "*new*")); len(left) > 0 {
				t.Errorf("left %q", left)
			}
		})
	}
}

// TestBackupOffline goes the round of a folder on which no server runs.
func TestBackupOffline(t *testing.T) {
	dir, out, runDir := dataFolder(t, 3), t.TempDir(), "--run-dir="+t.TempDir()
	for _, tt := range []struct {
		name  string
		flags []string
		files uint64
		want  string
	}{
		{"whole", nil, 2, "whole cluster, format keelson, revision 100"},
		{"bare", []string{"--no-pki"}, 0, "0 files of certificates"},
		{"shop", []string{"--namespace=shop"}, 0, "namespace shop"},
		{"snapshot", []string{"--format=etcd"}, 0, "format etcd"},
		{"plain", []string{"--format=etcd", "--decrypt"}, 0, "format etcd"},
	} {
		file := filepath.Join(out, tt.name)
		stdout, _, err := run(t, append([]string{"backup", file, "--data-dir=" + dir, runDir}, tt.flags...)...)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		verified, _, err := run(t, "backup", "verify", file)
		if err != nil || verified != stdout || !strings.Contains(stdout, tt.want) {
			t.Errorf("%s: %v\n%s%s", tt.name, err, stdout, verified)
		}
		a, err := backup.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		if a.Objects != 3 || a.Files != tt.files {
			t.Errorf("%s: %d objects, %d files", tt.name, a.Objects, a.Files)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	fresh := filepath.Join(out, "fresh")
	stdout, _, err := run(t, "restore", filepath.Join(out, "whole"), "--data-dir="+fresh, runDir, "--bump-revision=50")
	if err != nil || !strings.Contains(stdout, "the store begins at revision 150") {
		t.Errorf("restore: %v\n%s", err, stdout)
	}
	was, err := os.ReadFile(encryption.File(filepath.Join(dir, kernel.EncryptionDir)))
	if err != nil {
		t.Fatal(err)
	}
	is, err := os.ReadFile(encryption.File(filepath.Join(fresh, kernel.EncryptionDir)))
	if err != nil || string(is) != string(was) {
		t.Errorf("keys: %q, %v", is, err)
	}
	if stdout, _, err = run(t, "restore", filepath.Join(out, "snapshot"), "--data-dir="+fresh, runDir, "--force"); err != nil || !strings.Contains(stdout, "What was there before is in ") {
		t.Errorf("restore with --force: %v\n%s", err, stdout)
	}
}

// TestEncryptionCommands shows and changes the keys of a server that does not run.
func TestEncryptionCommands(t *testing.T) {
	dir := []string{"--data-dir=" + dataFolder(t, 0), "--run-dir=" + t.TempDir()}
	status := func() string {
		out, _, err := run(t, append([]string{"encryption", "status"}, dir...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := status(); strings.Count(out, "Key:") != 1 || !strings.Contains(out, "to be written anew") {
		t.Errorf("status: %s", out)
	}
	for { // keys are named after the second
		out, _, err := run(t, append([]string{"encryption", "rotate"}, dir...)...)
		if err == nil {
			if !strings.Contains(out, "at its next start") {
				t.Errorf("rotate: %s", out)
			}
			break
		}
		if !strings.Contains(err.Error(), "try again") {
			t.Fatal(err)
		}
	}
	if out := status(); strings.Count(out, "Key:") != 2 || strings.Count(out, "writes and reads") != 1 {
		t.Errorf("status after rotate: %s", out)
	}
}
