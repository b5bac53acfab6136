package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
	"keelson.dev/keelson/test/rounds"
)

// swapRounds is how often each plugin is swapped: a few times in CI, more where
// KEELSON_ROUNDS says so.
func swapRounds(t *testing.T) int { return rounds.Or(t, 3) }

// freshTokens are more than are asked about within the time that an answer is remembered.
const freshTokens = 1000

// TestSwapsUnderLoad swaps plugins that others call while they are called: not one call
// fails, nor is one answered as if there were no plugin.
func TestSwapsUnderLoad(t *testing.T) {
	built, err := buildDeciding()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	programs := filepath.Join(dir, "d/plugins.d")
	if err := os.MkdirAll(programs, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range deciding {
		copyProgram(t, built.Program(name), filepath.Join(programs, name))
	}
	admin, stop := kernelWith(t, dir)
	defer stop()
	api, err := client.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	plugins := documented(t, "../../docs/deciding.md", programs)
	tokens := map[string]any{}
	for i := range freshTokens {
		tokens[tokenOf(i)] = map[string]any{"user": "jane"}
	}
	if plugins["authentication"].Spec.Config.Raw, err = json.Marshal(map[string]any{"tokens": tokens}); err != nil {
		t.Fatal(err)
	}
	none := int32(0) // each swap ends before the next begins
	for _, p := range plugins {
		p.Spec.Swap = &v1alpha1.PluginSwapPolicy{WatchSeconds: &none}
		if _, err := api.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range plugins {
		ready(t, api, p.Name)
	}
	for kind, ask := range map[string]func(*testing.T) func() error{
		"admission":      func(t *testing.T) func() error { return askAdmission(t, admin) },
		"authentication": func(t *testing.T) func() error { return askAsJane(t, admin, true) },
		"authorization":  func(t *testing.T) func() error { return askAsJane(t, admin, false) },
		"storage":        func(t *testing.T) func() error { return askStorage(t, filepath.Join(dir, "r/storage.sock")) },
	} {
		t.Run(kind, func(t *testing.T) {
			s := startCalls(ask(t))
			var gaps []int64
			for i := range swapRounds(t) {
				gaps = append(gaps, swapOnce(t, api, plugins[kind].Name, 20_001+i))
				before := s.count()
				poll(t, "calls go on", func() bool { return s.count() > before+5 || s.failed() })
			}
			s.end(t)
			slices.Sort(gaps)
			t.Logf("%s: %d swaps, %d calls; gap in ms: median %d, longest %d", kind, len(gaps), s.count(), gaps[len(gaps)/2], gaps[len(gaps)-1])
		})
	}
}

func tokenOf(i int) string { return fmt.Sprintf("jane-s-token-%d", i%freshTokens) }

// swapOnce has another process take over, by a limit so high that it means nothing, and
// gives the gap in milliseconds.
func swapOnce(t *testing.T, api *client.Client, name string, pids int) int64 {
	t.Helper()
	before, err := api.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	patch := fmt.Appendf(nil, `{"spec":{"resources":{"limits":{"pids":%d}}}}`, pids)
	if _, err := api.Patch(t.Context(), name, types.MergePatchType, patch); err != nil {
		t.Fatal(err)
	}
	var gap int64
	poll(t, name+" is swapped", func() bool {
		p, err := api.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		s := p.Status
		if s.Revision == before.Status.Revision || s.Candidate != nil || s.Phase != v1alpha1.PluginRunning || len(s.History) == 0 ||
			s.History[0].Revision != s.Revision || s.History[0].GapMilliseconds == nil {
			return false
		}
		gap = *s.History[0].GapMilliseconds
		return true
	})
	return gap
}

// calls asks the same thing over and over until it is ended.
type calls struct {
	stop chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex // guards the rest
	answers  int
	failures []string
}

func startCalls(ask func() error) *calls {
	s := &calls{stop: make(chan struct{})}
	for range 2 {
		s.done.Go(func() {
			for {
				select {
				case <-s.stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				err := ask()
				s.mu.Lock()
				if err == nil {
					s.answers++
				} else {
					s.failures = append(s.failures, err.Error())
				}
				s.mu.Unlock()
			}
		})
	}
	return s
}

func (s *calls) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answers
}

func (s *calls) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.failures) > 0
}

func (s *calls) end(t *testing.T) {
	t.Helper()
	close(s.stop)
	s.done.Wait()
	if s.answers == 0 || len(s.failures) > 0 {
		t.Errorf("%d calls answered, %d failed: %s", s.answers, len(s.failures), strings.Join(s.failures[:min(3, len(s.failures))], "; "))
	}
}

// askAdmission makes one ConfigMap that has to be marked, and one that has to be refused.
func askAdmission(t *testing.T, admin *rest.Config) func() error {
	config := rest.CopyConfig(admin)
	config.QPS = -1
	maps := clientset(t, config).CoreV1().ConfigMaps("default")
	return func() error {
		got, err := maps.Create(context.Background(), settings("colour"), metav1.CreateOptions{})
		if err != nil || got.Labels["example.keelson.dev/seen"] != "true" {
			return fmt.Errorf("a good ConfigMap: got %v, %w, want the label", got.GetLabels(), err)
		}
		if _, err := maps.Create(context.Background(), settings("password"), metav1.CreateOptions{}); err == nil {
			return errors.New("a ConfigMap with a forbidden key was taken")
		} else if !apierrors.IsForbidden(err) {
			return fmt.Errorf("a ConfigMap with a forbidden key: %w, want 403", err)
		}
		return nil
	}
}

// askAsJane reads what only jane may, with a token that nobody has shown yet, or, for the
// authorizer alone, with one that is known by now.
func askAsJane(t *testing.T, admin *rest.Config, fresh bool) func() error {
	config := rest.AnonymousClientConfig(admin)
	web, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(web.CloseIdleConnections)
	var mu sync.Mutex // guards asked
	asked := 0
	request := func(method, path string, want int) error {
		mu.Lock()
		if fresh {
			asked++
		}
		who := tokenOf(asked)
		mu.Unlock()
		r, err := http.NewRequestWithContext(context.Background(), method, config.Host+path, nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+who)
		answer, err := web.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != want {
			err = fmt.Errorf("%s %s as %s: got %d, want %d: %s", method, path, who, answer.StatusCode, want, body)
		}
		return err
	}
	return func() error {
		if err := request(http.MethodGet, "/api/v1/nodes", http.StatusOK); err != nil {
			return err
		}
		return request(http.MethodDelete, "/api/v1/nodes/none", http.StatusForbidden)
	}
}

// askStorage makes a volume, looks at it and at the node, and deletes it.
func askStorage(t *testing.T, socket string) func() error {
	conn, err := kit.DialSocket(socket, kit.CallAgain(nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	controller, node := csi.NewControllerClient(conn), csi.NewNodeClient(conn)
	capability := &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
	var mu sync.Mutex // guards made
	made := 0
	return func() error {
		mu.Lock()
		made++
		name := fmt.Sprintf("v%d", made)
		mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		v, err := controller.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: name, VolumeCapabilities: []*csi.VolumeCapability{capability}})
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		id := v.GetVolume().GetVolumeId()
		if _, err := controller.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{capability},
		}); err != nil {
			return fmt.Errorf("look at it: %w", err)
		}
		if _, err := node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}); err != nil {
			return fmt.Errorf("look at the node: %w", err)
		}
		if _, err := controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
		return nil
	}
}

// TestSwapsOfAProgram: of a program that exec runs, never do two run, and each is ended in
// good order before the next begins.
func TestSwapsOfAProgram(t *testing.T) {
	h := start(t)
	ledger := filepath.Join(t.TempDir(), "ledger")
	spec := func(round int) pluginhost.Spec {
		s := wrapped(t, map[string]any{
			"command": "/bin/sh", "env": map[string]string{"ROUND": strconv.Itoa(round)},
			"args": []string{"-c", `echo begin $ROUND >>"$0"; trap 'echo end $ROUND >>"$0"; exit 0' TERM; while :; do sleep 1 & wait; done`, ledger},
		})
		return s
	}
	h.ensure(t, spec(0))
	h.wait(t, "wrapped", pluginhost.PhaseRunning)
	want := []string{"begin 0"}
	var gaps []time.Duration
	for i := range swapRounds(t) {
		next := spec(i + 1)
		h.ensure(t, next)
		s := h.waitFor(t, "wrapped", "swapped", func(s pluginhost.Status) bool {
			return s.Revision == h.Revision(next) && s.Phase == pluginhost.PhaseRunning
		})
		gaps = append(gaps, s.History.Revisions[0].Gap)
		want = append(want, fmt.Sprintf("end %d", i), fmt.Sprintf("begin %d", i+1))
		poll(t, "the program has begun", func() bool { return len(linesOf(ledger)) == len(want) })
	}
	if got := linesOf(ledger); !slices.Equal(got, want) {
		t.Errorf("programs: got %q, want %q", got, want)
	}
	t.Logf("gaps: %v", gaps)
}

func linesOf(path string) []string {
	data, _ := os.ReadFile(path)
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}
