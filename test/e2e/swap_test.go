package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"keelson.dev/keelson/test/rounds"
)

// swapRounds is how often each plugin is swapped: a few times in CI, more where
// KEELSON_ROUNDS says so.
func swapRounds(t *testing.T) int { return rounds.Or(t, 3) }

// testSwapPlugins swaps each plugin for itself, time and again, while users of the cluster
// notice nothing: requests over new and old connections, look-ups, pods that come and go.
func (c *cluster) testSwapPlugins(t *testing.T) {
	client := c.clientset(t)
	rounds := swapRounds(t)
	for _, name := range builtins { // the process before is of no use here, but to a rollback
		c.kubectl(t, "patch", "plugins.keelson.dev", name, "--type=merge", "--patch", `{"spec":{"swap":{"watchSeconds":1}}}`)
	}
	defer func() {
		for _, name := range builtins {
			c.kubectl(t, "patch", "plugins.keelson.dev", name, "--type=merge", "--patch", `{"spec":{"swap":null,"resources":null}}`)
		}
	}()
	port := c.localService(t, client)
	for _, name := range builtins {
		t.Run(name, func(t *testing.T) {
			restarts := c.restarts(t)
			requests := startLoad(c.machine, c.url)
			others := []*stream{c.keepAlive(t, client), c.lookUps(t, "udp"), c.lookUps(t, "tcp"), c.healthChecks(port)}
			pods := c.startChurn(t, client)
			var gaps []int64
			for range rounds {
				gaps = append(gaps, c.swap(t, client, name))
			}
			pods.end(t)
			for _, s := range others {
				s.end(t)
			}
			requests.endWithoutFailure(t)
			if now := c.restarts(t); !slices.Equal(now, restarts) {
				t.Errorf("containers changed:\nbefore %v\nafter  %v", restarts, now)
			}
			slices.Sort(gaps)
			t.Logf("%s: %d swaps, gap in ms: median %d, longest %d", name, len(gaps), gaps[len(gaps)/2], gaps[len(gaps)-1])
		})
	}
	t.Run("streams", c.testSwapStreams)
}

// clientset speaks with the cluster's API from within the machine.
func (c *cluster) clientset(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Dial, config.QPS = c.dial, -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// pluginStatus is what a swap looks at.
type pluginStatus struct {
	Spec struct {
		Resources struct {
			Limits struct{ Pids int64 }
		}
	}
	Metadata metav1.ObjectMeta
	Status   struct {
		ObservedGeneration int64
		Phase              string
		Revision           string
		Candidate          *struct{ Phase, Message string }
		History            []struct {
			Revision, Outcome, Message string
			Generation                 int64
			GapMilliseconds            *int64
		}
	}
}

const pluginsPath = "/apis/keelson.dev/v1alpha1/plugins/"

// swap has another process of a plugin take over, by a limit so high that it means
// nothing, and gives the gap in milliseconds.
func (c *cluster) swap(t *testing.T, client *kubernetes.Clientset, name string) int64 {
	t.Helper()
	return c.swapBy(t, client, name, func(before pluginStatus) string {
		pids := max(before.Spec.Resources.Limits.Pids, 20_000) + 1
		return fmt.Sprintf(`{"spec":{"resources":{"limits":{"pids":%d}}}}`, pids)
	})
}

// swapBy swaps a plugin by a patch of its object, and gives the gap in milliseconds.
func (c *cluster) swapBy(t *testing.T, client *kubernetes.Clientset, name string, patch func(before pluginStatus) string) int64 {
	t.Helper()
	api := client.CoreV1().RESTClient()
	get := func() (p pluginStatus, err error) {
		raw, err := api.Get().AbsPath(pluginsPath + name).DoRaw(t.Context())
		if err == nil {
			err = json.Unmarshal(raw, &p)
		}
		return p, err
	}
	before, err := get()
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Patch(types.MergePatchType).AbsPath(pluginsPath + name).Body([]byte(patch(before))).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	var gap int64
	eventually(t, 2*time.Minute, "plugin "+name+" swapped", func() error {
		p, err := get()
		if err != nil {
			return err
		}
		if len(p.Status.History) == 0 || p.Status.Revision == before.Status.Revision || p.Status.Candidate != nil || p.Status.Phase != "Running" {
			return fmt.Errorf("it is %s at revision %s, candidate %+v, history %+v", p.Status.Phase, p.Status.Revision, p.Status.Candidate, p.Status.History)
		}
		h := p.Status.History[0]
		if h.Outcome != "Active" || h.GapMilliseconds == nil {
			return fmt.Errorf("revision %s is %s (%s), gap %v", h.Revision, h.Outcome, h.Message, h.GapMilliseconds)
		}
		gap = *h.GapMilliseconds
		return nil
	})
	return gap
}

// stream asks one thing again and again until it is ended.
type stream struct {
	name string
	stop chan struct{}
	done sync.WaitGroup

	answers  int // this and the next: after done
	failures []string
}

func startStream(name string, ask func() error) *stream {
	s := &stream{name: name, stop: make(chan struct{})}
	s.done.Go(func() {
		for {
			select {
			case <-s.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if err := ask(); err != nil {
				s.failures = append(s.failures, fmt.Sprintf("%s %v", time.Now().Format("15:04:05.000"), err))
			} else {
				s.answers++
			}
		}
	})
	return s
}

// end stops the stream, of which everything must have been answered.
func (s *stream) end(t *testing.T) {
	t.Helper()
	close(s.stop)
	s.done.Wait()
	if s.answers == 0 || len(s.failures) > 0 {
		t.Errorf("%s: %d answered, %d failed, the first: %s", s.name, s.answers, len(s.failures), first(s.failures))
	}
	t.Logf("%s: %d answered", s.name, s.answers)
}

// answerTime is the most that an answer may take: no client waits so long, and none has to,
// but a machine may be busy.
const answerTime = time.Minute

// keepAlive sends requests to a service's address over one connection as long as it lasts.
func (c *cluster) keepAlive(t *testing.T, client *kubernetes.Clientset) *stream {
	t.Helper()
	service, err := client.CoreV1().Services("example").Get(t.Context(), "front", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Timeout: answerTime, Transport: &http.Transport{DialContext: c.dial, MaxConnsPerHost: 1}}
	return startStream("requests to "+service.Spec.ClusterIP, func() error {
		_, err := c.get(web, "http://"+service.Spec.ClusterIP+"/")
		return err
	})
}

// localService makes a service with a port at which load balancers ask for endpoints.
func (c *cluster) localService(t *testing.T, client *kubernetes.Clientset) (port int32) {
	t.Helper()
	services := client.CoreV1().Services("example")
	service, err := services.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "local"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Selector: map[string]string{"app": "front"}, Ports: []corev1.ServicePort{{Port: 80}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := services.Delete(context.Background(), "local", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	port = service.Spec.HealthCheckNodePort
	eventually(t, time.Minute, "an answer at the health check port", c.healthCheck(port))
	return port
}

// healthChecks ask as a load balancer does, over a new connection each time.
func (c *cluster) healthChecks(port int32) *stream {
	return startStream("health checks", c.healthCheck(port))
}

func (c *cluster) healthCheck(port int32) func() error {
	web := c.client()
	web.Timeout = answerTime
	return func() error {
		_, err := c.get(web, fmt.Sprintf("http://%s:%d/", c.ip, port))
		return err
	}
}

// lookUps ask the cluster's DNS, once each: what is lost is a failure.
func (c *cluster) lookUps(t *testing.T, network string) *stream {
	t.Helper()
	return startStream("look-ups by "+network, c.lookUp(t, network))
}

// lookUp asks once, without a second try.
func (c *cluster) lookUp(t *testing.T, network string) func() error {
	t.Helper()
	address := c.kubectl(t, "--namespace=kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}")
	ask := dns.Client{Net: network, Timeout: answerTime}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), answerTime)
		defer cancel()
		raw, err := c.dial(ctx, network, net.JoinHostPort(address, "53"))
		if err != nil {
			return err
		}
		conn := &dns.Conn{Conn: raw}
		defer func() { _ = conn.Close() }()
		question := (&dns.Msg{}).SetQuestion("front.example.svc.cluster.local.", dns.TypeA)
		answer, _, err := ask.ExchangeWithConn(question, conn)
		if err == nil && len(answer.Answer) != 1 {
			err = fmt.Errorf("%s: %v", dns.RcodeToString[answer.Rcode], answer.Answer)
		}
		return err
	}
}

// churn is a deployment whose pods come and go. It counts them.
type churn struct {
	client *kubernetes.Clientset
	events watch.Interface
	stop   chan struct{}
	done   sync.WaitGroup

	cycles int // this and the rest: after done
	made   map[types.UID]string
	faults []string
}

const churnPods = 3

func (c *cluster) startChurn(t *testing.T, client *kubernetes.Clientset) *churn {
	t.Helper()
	c.kubectl(t, "--namespace=example", "create", "deployment", "churn", "--image=example/busybox:1.35", "--replicas=0", "--", "sleep", "3600")
	c.kubectl(t, "--namespace=example", "patch", "deployment", "churn", "--patch", `{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}`)
	events, err := client.CoreV1().Pods("example").Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=churn"})
	if err != nil {
		t.Fatal(err)
	}
	u := &churn{client: client, events: events, stop: make(chan struct{}), made: map[types.UID]string{}}
	u.done.Go(func() {
		for more := true; more; u.cycles++ {
			select {
			case <-u.stop:
				more = false // this is the last cycle
			default:
			}
			if err := u.cycle(); err != nil {
				u.faults = append(u.faults, err.Error())
				return
			}
		}
	})
	return u
}

// cycle makes all pods and takes them away.
func (u *churn) cycle() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	running, there := map[types.UID]bool{}, map[types.UID]bool{}
	for _, replicas := range []int{churnPods, 0} {
		patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
		if _, err := u.client.AppsV1().Deployments("example").Patch(ctx, "churn", types.MergePatchType, patch, metav1.PatchOptions{}, "scale"); err != nil {
			return fmt.Errorf("scale to %d: %w", replicas, err)
		}
		for len(running) != replicas || replicas == 0 && len(there) > 0 {
			select {
			case <-ctx.Done():
				return fmt.Errorf("scaled to %d: %d run, of %d that are there", replicas, len(running), len(there))
			case e, ok := <-u.events.ResultChan():
				pod, isPod := e.Object.(*corev1.Pod)
				if !ok || !isPod {
					return fmt.Errorf("the watch ended: %v", e)
				}
				u.see(e.Type, pod, running, there)
			}
		}
	}
	return nil
}

func (u *churn) see(event watch.EventType, pod *corev1.Pod, running, there map[types.UID]bool) {
	u.made[pod.UID] = pod.Name
	delete(running, pod.UID)
	if event == watch.Deleted {
		delete(there, pod.UID)
		return
	}
	there[pod.UID] = true
	for _, s := range pod.Status.ContainerStatuses {
		if s.RestartCount > 0 {
			u.faults = append(u.faults, fmt.Sprintf("pod %s: its container was restarted: %+v", pod.Name, s.LastTerminationState))
		}
		if s.State.Running != nil && pod.DeletionTimestamp == nil {
			running[pod.UID] = true
		}
	}
}

// end ends the churn after its cycle: each cycle has made its pods and no other.
func (u *churn) end(t *testing.T) {
	t.Helper()
	close(u.stop)
	u.done.Wait()
	u.events.Stop()
	if len(u.faults) > 0 {
		t.Errorf("%d faults, the first: %s", len(u.faults), u.faults[0])
	}
	if want := churnPods * u.cycles; len(u.made) != want {
		t.Errorf("%d pods were made in %d cycles, want %d", len(u.made), u.cycles, want)
	}
	t.Logf("%d pods came and went", len(u.made))
	if err := u.client.AppsV1().Deployments("example").Delete(context.Background(), "churn", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
