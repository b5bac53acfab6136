package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/proto/runtime/v1/runtimetest"
	"keelson.dev/keelson/test/need"
)

// TestRootExampleImages runs real programs under the default seccomp profile. The
// images come from test/example/images.
func TestRootExampleImages(t *testing.T) {
	const dir = "../../.cache/images/"
	if _, err := os.Stat(dir + "redis.tar"); err != nil {
		need.Missing(t, "the images of test/example, which `make images` makes: %v", err)
	}
	p := newProcess(t)
	runtimetest.ServeNetwork(t, p.dir+"/network.sock")
	p.start()
	c := runtimetest.Dial(t, p.socket())
	for _, test := range []struct {
		name, image, ready string
		args, probe        []string
		readonly           bool
	}{
		{"redis", "example/redis:7.0", "Ready to accept connections", []string{"--port", "6379"}, []string{"/usr/bin/redis-cli", "ping"}, false},
		{"nginx", "example/nginx:1.22", "start worker process", []string{"-g", "daemon off; error_log stderr notice;"}, []string{"/bin/wget", "-qO-", "http://127.0.0.1:8080/"}, false},
		{"busybox", "example/busybox:1.35", "tick", []string{"sh", "-c", "while true; do echo tick; sleep 1; done"}, []string{"/bin/nslookup", "localhost", "127.0.0.1"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			data, err := os.ReadFile(dir + test.name + ".tar")
			if err != nil {
				t.Fatal(err)
			}
			c := c.In(t)
			if _, err := c.ImportTar(data, ""); err != nil {
				t.Fatal(err)
			}
			sb := c.Sandbox(nil)
			id := c.Start(sb, func(config *cri.ContainerConfig) {
				config.Image.Image = test.image
				if test.name == "nginx" {
					config.Mounts = []*cri.Mount{{ContainerPath: "/etc/nginx/nginx.conf", HostPath: nginxConfig(t), Readonly: true}}
				}
				s := config.Linux.SecurityContext
				s.Seccomp, s.NoNewPrivs, s.ReadonlyRootfs = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, true, test.readonly
			}, test.args...)
			c.Eventually("it is ready", func() error {
				if st := c.Inspect(id); st.GetState() == cri.ContainerState_CONTAINER_EXITED {
					t.Fatalf("it ended with %d: %s", st.GetExitCode(), c.Log(id))
				}
				if !strings.Contains(c.Log(id), test.ready) {
					return os.ErrNotExist
				}
				return nil
			})
			answer, err := c.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: test.probe, Timeout: 10})
			if err != nil || (answer.GetExitCode() != 0 && test.name != "busybox") {
				t.Errorf("probe: %v, %v", answer, err)
			}
			t.Logf("%s%s", answer.GetStdout(), answer.GetStderr())
			if _, err := c.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 3}); err != nil {
				t.Error(err)
			}
			t.Logf("exit code %d, log:\n%s", c.Inspect(id).GetExitCode(), c.Log(id))
		})
	}
}

func nginxConfig(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nginx.conf")
	const conf = "events {}\nhttp { server { listen 8080; location / { return 200 hello; } } }\n"
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}
