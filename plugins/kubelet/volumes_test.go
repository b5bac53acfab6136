package kubelet

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/test/need"
)

func TestWritePayload(t *testing.T) {
	dir := t.TempDir()
	files := map[string]payloadFile{"a": {Data: []byte("1"), Mode: 0o640}, "deep/b": {Data: []byte("2"), Mode: 0o400}}
	write := func(want bool) {
		t.Helper()
		changed, err := writePayload(dir, files, nil)
		if err != nil || changed != want {
			t.Fatalf("changed %v, err %v, want %v", changed, err, want)
		}
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	write(true)
	first, _ := os.Readlink(filepath.Join(dir, dataLink))
	if read("a") != "1" || read("deep/b") != "2" {
		t.Errorf("got %q and %q", read("a"), read("deep/b"))
	}
	if info, err := os.Stat(filepath.Join(dir, "a")); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode: %v %v", info, err)
	}
	write(false)
	files["a"] = payloadFile{Data: []byte("new"), Mode: 0o644}
	delete(files, "deep/b")
	write(true)
	second, _ := os.Readlink(filepath.Join(dir, dataLink))
	if read("a") != "new" || first == second {
		t.Errorf("got %q; links %s and %s", read("a"), first, second)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 3 { // the folder, ..data, a
		t.Errorf("left over: %v", entries)
	}
	for _, bad := range []string{"../x", "/x", "..x", "a/../../b", ""} {
		if _, err := writePayload(dir, map[string]payloadFile{bad: {}}, nil); err == nil {
			t.Errorf("path %q was taken", bad)
		}
	}
}

func TestSubPathStaysInside(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "escape")); err != nil {
		t.Fatal(err)
	}
	v := &volumes{dir: t.TempDir()}
	for _, sub := range []string{"escape", "escape/x", "../x", "/etc", "a/../../b"} {
		if path, err := v.bindSubPath("u", "vol", "c", 0, root, sub); err == nil {
			t.Errorf("subPath %q was bound at %s", sub, path)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("something was made outside: %v", entries)
	}
}

func TestRootVolumes(t *testing.T) {
	need.Root(t)
	v := &volumes{dir: t.TempDir(), tokens: newTokens(nil), allocatable: func() corev1.ResourceList { return nil },
		objects: mapObjects{secrets: map[string]map[string][]byte{"s": {"k": []byte("hush")}}, maps: map[string]map[string]string{"cm": {"a": "1"}}}}
	group := int64(4321)
	mode := int32(0o400)
	pod := simplePod("p")
	pod.Labels = map[string]string{"x": "y"}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "sec", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode}}},
		{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: quantity("1Mi")}}},
		{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}}}}},
	}
	for range 2 { // the second time changes nothing
		got, _, err := v.setUp(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(filepath.Join(got["sec"].Path, "k")); err != nil || string(data) != "hush" {
			t.Errorf("secret: %q, %v", data, err)
		}
		if info, err := os.Stat(filepath.Join(got["sec"].Path, "k")); err != nil || info.Mode().Perm() != 0o440 {
			t.Errorf("secret's mode: %v, %v", info.Mode(), err)
		}
		if data, err := os.ReadFile(filepath.Join(got["all"].Path, "labels")); err != nil || string(data) != `x="y"` {
			t.Errorf("labels: %q, %v", data, err)
		}
		if err := os.WriteFile(filepath.Join(got["mem"].Path, "big"), make([]byte, 2<<20), 0o600); err == nil {
			t.Error("a memory volume of 1 MiB took 2 MiB")
		}
		if err := os.Remove(filepath.Join(got["mem"].Path, "big")); err != nil {
			t.Error(err)
		}
		path, err := v.bindSubPath(pod.UID, "mem", "c", 0, got["mem"].Path, "some/dir")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "f"), []byte("x"), 0o600); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(got["mem"].Path, "some/dir/f")); err != nil {
			t.Error(err)
		}
	}
	if err := v.tearDown(pod.UID); err != nil {
		t.Fatal(err)
	}
	if mounts, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(mounts), v.dir) {
		t.Errorf("mounts stay:\n%s", mounts)
	}
	if _, err := os.Stat(v.podDir(pod.UID)); !os.IsNotExist(err) {
		t.Errorf("folder stays: %v", err)
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind corev1.HostPathType
		path string
		want string
	}{
		{corev1.HostPathUnset, dir + "/none", ""}, {corev1.HostPathDirectory, dir, ""}, {corev1.HostPathDirectory, file, " is not a directory"},
		{corev1.HostPathDirectory, dir + "/none", " is not a directory"}, {corev1.HostPathDirectoryOrCreate, dir + "/new", ""}, {corev1.HostPathFile, file, ""},
		{corev1.HostPathFile, dir, " is not a file"}, {corev1.HostPathFileOrCreate, dir + "/newfile", ""}, {corev1.HostPathSocket, file, " is not a socket file"},
		{corev1.HostPathCharDev, "/dev/null", ""}, {corev1.HostPathBlockDev, "/dev/null", " is not a block device"},
	} {
		err := hostPath(&corev1.HostPathVolumeSource{Path: tt.path, Type: &tt.kind})
		if (err == nil) != (tt.want == "") || err != nil && err.Error() != "hostPath type check failed: "+tt.path+tt.want {
			t.Errorf("%s of type %s: got %v, want %q", tt.path, tt.kind, err, tt.want)
		}
	}
}

func TestProbes(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		case "/slow":
			<-r.Context().Done()
		case "/away":
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		case "/header":
			if r.Host != "named" || r.Header.Get("X-A") != "b" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
				w.WriteHeader(http.StatusBadRequest)
			}
		}
	}))
	defer web.Close()
	port := web.Listener.Addr().(*net.TCPAddr).Port
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	hs := health.NewServer()
	hs.SetServingStatus("down", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(server, hs)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	defer func() { server.Stop(); <-done }()
	grpcPort := int32(l.Addr().(*net.TCPAddr).Port)
	get := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "named"}, {Name: "X-A", Value: "b"}}}}
	}
	down := "down"
	c := &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	tests := []struct {
		name string
		h    corev1.ProbeHandler
		ok   bool
		text string
	}{
		{"http", get("/"), true, ""}, {"http 500", get("/bad"), false, "HTTP probe failed with statuscode: 500"}, {"http timeout", get("/slow"), false, "deadline exceeded"},
		{"http redirected away", get("/away"), true, ""}, {"http headers", get("/header"), true, ""},
		{"tcp", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}}, true, ""},
		{"tcp refused", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}, false, "connection refused"},
		{"grpc", corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: grpcPort}}, true, ""},
		{"grpc down", corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: grpcPort, Service: &down}}, false, `service unhealthy (responded with "NOT_SERVING")`},
		{"grpc at a web server", corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 1}}, false, ""},
	}
	k := &Kubelet{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ok, text, err := k.probeOnce(t.Context(), &corev1.Probe{ProbeHandler: tt.h, TimeoutSeconds: 1}, c, "id", "127.0.0.1")
			if err != nil || ok != tt.ok || !strings.Contains(text, tt.text) {
				t.Errorf("got %v, %q, %v; want %v, %q", ok, text, err, tt.ok, tt.text)
			}
		})
	}
	if _, _, err := k.probeOnce(t.Context(), &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("nameless")}}}, c, "", ""); err == nil {
		t.Error("a port that does not exist was probed")
	}
}

func TestProbeThresholds(t *testing.T) {
	var got []probeResult
	n := newNode(t)
	k, err := newKubelet(n.env, n.api)
	if err != nil {
		t.Fatal(err)
	}
	k.rec = record.NewFakeRecorder(100)
	j := &probeJob{k: k, pod: simplePod("p"), container: &corev1.Container{Name: "app"}, kind: "Readiness", probe: &corev1.Probe{SuccessThreshold: 2, FailureThreshold: 3}, set: func(r probeResult) { got = append(got, r) }}
	for _, ok := range []bool{true, true, false, false, true, false, false, false, false, true, true} {
		if j.note(ok, "", nil) {
			t.Error("a readiness probe ended")
		}
	}
	if len(got) != 3 || got[0] != probeSuccess || got[1] != probeFailure || got[2] != probeSuccess {
		t.Errorf("got %v", got)
	}
}

func TestReadLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	var b bytes.Buffer
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 10 {
		stream, tag := "stdout", "F"
		if i == 5 {
			stream = "stderr"
		}
		if i == 8 {
			tag = "P"
		}
		b.WriteString(begun.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano) + " " + stream + " " + tag + " line" + strconv.Itoa(i) + "\n")
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	all := logOptions{Tail: -1, Limit: -1, Stdout: true, Stderr: true}
	with := func(change func(*logOptions)) logOptions { o := all; change(&o); return o }
	tests := []struct {
		name string
		opts logOptions
		want string
	}{
		{"all", all, "line0\nline1\nline2\nline3\nline4\nline5\nline6\nline7\nline8line9\n"},
		{"tail", with(func(o *logOptions) { o.Tail = 2 }), "line8line9\n"},
		{"tail of none", with(func(o *logOptions) { o.Tail = 0 }), ""},
		{"tail of more than there is", with(func(o *logOptions) { o.Tail = 100; o.Limit = 6 }), "line0\n"},
		{"since", with(func(o *logOptions) { o.Since = begun.Add(7 * time.Second) }), "line7\nline8line9\n"},
		{"limit", with(func(o *logOptions) { o.Limit = 8 }), "line0\nli"},
		{"stderr", with(func(o *logOptions) { o.Stdout = false }), "line5\n"},
		{"timestamps", with(func(o *logOptions) { o.Timestamps = true; o.Since = begun.Add(8 * time.Second) }), "2026-01-01T00:00:08Z line8line9\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := readLog(t.Context(), path, tt.opts, &out, nil); err != nil || out.String() != tt.want {
				t.Errorf("got %q, %v, want %q", out.String(), err, tt.want)
			}
		})
	}
	t.Run("follow over a rotation", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		alive := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- readLog(context.WithoutCancel(t.Context()), path, with(func(o *logOptions) { o.Tail = 0; o.Follow = true }), w, func() bool {
				select {
				case <-alive:
					return false
				default:
					return true
				}
			})
			w.Close()
		}()
		line := func(f, text string) {
			h, err := os.OpenFile(f, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if _, err := h.WriteString("2026-01-01T00:01:00Z stdout F " + text + "\n"); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 100)
		expect := func(want string) {
			t.Helper()
			if err := r.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			n, err := r.Read(buf)
			if string(buf[:n]) != want {
				t.Fatalf("got %q, %v, want %q", buf[:n], err, want)
			}
		}
		<-time.After(50 * time.Millisecond) // let it reach the end
		line(path, "one")
		expect("one\n")
		if err := os.Rename(path, path+".20260101-000000"); err != nil {
			t.Fatal(err)
		}
		line(path, "two")
		expect("two\n")
		close(alive)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
