package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"keelson.dev/keelson/plugins/kit"
)

// Kubelet is the node agent.
type Kubelet struct {
	env     *kit.Env
	cfg     Config
	log     *slog.Logger
	client  kubernetes.Interface
	conn    *grpc.ClientConn
	cri     *criClient
	metrics *metrics
	machine machine
	cg      *cgroups
	tokens  *tokens
	hostIPs []string

	// Set by Start.
	ctx      context.Context
	rec      record.EventRecorder
	objects  *objects
	volumes  *volumes
	pleg     *pleg
	pulls    chan struct{} // bounds image pulls running at once
	caughtUp chan struct{} // closed when the API's pods of this node are known to the last

	pods     cache.SharedIndexInformer
	services cache.SharedIndexInformer

	runtimeInfo atomic.Pointer[runtimeapi.VersionResponse]

	wg      sync.WaitGroup // the workers
	mu      sync.Mutex     // guards workers
	workers map[types.UID]*podWorker
}

// maxPulls is how many images are pulled at once: enough to hide latency, few enough to leave each some bandwidth.
const maxPulls = 5

// New checks the configuration and allocates; it starts nothing.
func New(env *kit.Env) (*Kubelet, error) {
	client, err := env.Clientset()
	if err != nil {
		return nil, err
	}
	return newKubelet(env, client)
}

func newKubelet(env *kit.Env, client kubernetes.Interface) (*Kubelet, error) {
	var cfg Config
	if err := env.LoadConfig(&cfg); err != nil {
		return nil, err
	}
	if cfg.Port == 0 {
		cfg.Port = env.Node.KubeletPort
	}
	conn, err := kit.DialSocket(env.Endpoints["runtime"], kit.CallAgain(lessGrace))
	if err != nil {
		return nil, fmt.Errorf("connect to the container runtime: %w", err)
	}
	k := &Kubelet{env: env, cfg: cfg, log: env.Log, client: client, conn: conn, cri: newCRIClient(conn), machine: readMachine(),
		cg: newCgroups(cfg.CgroupRoot), tokens: newTokens(client), metrics: newMetrics(env.Metrics),
		workers: map[types.UID]*podWorker{}, pulls: make(chan struct{}, maxPulls), caughtUp: make(chan struct{})}
	for _, a := range env.Node.Addresses {
		k.hostIPs = append(k.hostIPs, a.String())
	}
	k.makeInformers()
	return k, nil
}

var _ kit.WarmStandby = (*Kubelet)(nil)

// Warm keeps the node's pods and the services.
func (k *Kubelet) Warm(ctx context.Context, warm func()) error {
	defer func() { context.AfterFunc(k.env.Life(), func() { _ = k.conn.Close() }) }() // streams may need it longer
	var wg sync.WaitGroup
	wg.Go(func() { k.pods.RunWithContext(ctx) })
	wg.Go(func() { k.services.RunWithContext(ctx) })
	if cache.WaitForCacheSync(ctx.Done(), k.pods.HasSynced, k.services.HasSynced) {
		warm()
	}
	wg.Wait()
	return nil
}

// lessGrace makes a call that is repeated ask for what is left of a container's time.
func lessGrace(req any, passed time.Duration) {
	if stop, ok := req.(*runtimeapi.StopContainerRequest); ok && stop.Timeout > 0 {
		stop.Timeout = max(stop.Timeout-int64(passed/time.Second), 1)
	}
}

// Start runs the kubelet until ctx ends; containers go on running, and so do streams.
func (k *Kubelet) Start(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	k.ctx = ctx
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: k.client.CoreV1().Events("")})
	k.rec = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: k.env.Node.Name})
	k.objects = newObjects(ctx, k.client, k.log, func(uid types.UID) { k.wake(uid, false) })
	defer k.objects.wg.Wait()
	k.volumes = &volumes{dir: k.env.DataDir + "/pods", objects: k.objects, tokens: k.tokens, nodeName: k.env.Node.Name, allocatable: k.allocatable}
	k.pleg = newPleg(k)
	defer k.wg.Wait()

	g.Go(func() error { return k.followPods(ctx) })
	g.Go(func() error { return newNodeReporter(k).run(ctx) })
	g.Go(func() error { return k.pleg.run(ctx) })
	g.Go(func() error { return k.rotateLogs(ctx) })
	g.Go(func() error { return k.serve(ctx) })
	return g.Wait()
}

// followPods gives each pod a worker, as soon as all are known: another process may have
// started or removed some a moment ago.
func (k *Kubelet) followPods(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), k.pods.HasSynced) {
		return nil
	}
	if err := k.env.CatchUp(ctx, corev1.SchemeGroupVersion.WithResource("pods"), k.pods.GetStore(), metav1.ListOptions{FieldSelector: k.onNode()}); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	close(k.caughtUp)
	return k.watchPods()
}

// knowsAll tells whether a pod that is not known is one that the API does not have.
func (k *Kubelet) knowsAll() bool {
	select {
	case <-k.caughtUp:
		return true
	default:
		return false
	}
}

// onNode selects the pods of this node.
func (k *Kubelet) onNode() string {
	return fields.OneTermEqualSelector("spec.nodeName", k.env.Node.Name).String()
}

func (k *Kubelet) makeInformers() {
	onNode := informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = k.onNode()
	})
	k.pods = informers.NewSharedInformerFactoryWithOptions(k.client, 0, onNode).Core().V1().Pods().Informer()
	k.services = informers.NewSharedInformerFactory(k.client, 0).Core().V1().Services().Informer()
	_ = k.services.SetTransform(func(obj any) (any, error) {
		if s, ok := obj.(*corev1.Service); ok {
			s.ManagedFields, s.Annotations = nil, nil
		}
		return obj, nil
	})
	_ = k.pods.SetTransform(func(obj any) (any, error) {
		if p, ok := obj.(*corev1.Pod); ok {
			p.ManagedFields = nil
		}
		return obj, nil
	})
}

func (k *Kubelet) watchPods() error {
	_, err := k.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { k.podChanged(obj.(*corev1.Pod)) },
		UpdateFunc: func(_, obj any) { k.podChanged(obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				k.podRemoved(pod)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	return nil
}

// podChanged hands a pod to its worker, and starts the worker if the pod is new.
func (k *Kubelet) podChanged(pod *corev1.Pod) {
	if k.ctx.Err() != nil {
		return // the next one's
	}
	k.mu.Lock()
	w := k.workers[pod.UID]
	if w == nil {
		w = newPodWorker(k, pod)
		k.workers[pod.UID] = w
		k.wg.Go(func() {
			w.run(k.ctx)
			if k.ctx.Err() != nil {
				return // requests under way ask for what was last known
			}
			k.mu.Lock()
			delete(k.workers, pod.UID)
			k.mu.Unlock()
			k.objects.release(pod.UID)
		})
	}
	k.mu.Unlock()
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		k.objects.register(pod) // an ended pod needs nothing, and the node may not read for it
	}
	w.update(pod)
}

func (k *Kubelet) podRemoved(pod *corev1.Pod) {
	if w := k.worker(pod.UID); w != nil {
		w.remove(pod)
	}
}

func (k *Kubelet) worker(uid types.UID) *podWorker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid]
}

// wake makes a pod's worker look again; dirty says that the runtime's state has changed.
func (k *Kubelet) wake(uid types.UID, dirty bool) bool {
	w := k.worker(uid)
	if w == nil {
		return false
	}
	w.post(func() {
		if dirty {
			w.dirty = true
		} else {
			w.referencesChanged()
		}
	})
	return true
}

func (k *Kubelet) wakeAll() {
	k.mu.Lock()
	all := make([]*podWorker, 0, len(k.workers))
	for _, w := range k.workers {
		all = append(all, w)
	}
	k.mu.Unlock()
	for _, w := range all {
		w.post(func() { w.dirty = true })
	}
}

// views returns what each worker last knew.
func (k *Kubelet) views() []*podView {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*podView
	for _, w := range k.workers {
		if v := w.view.Load(); v != nil {
			out = append(out, v)
		}
	}
	return out
}

func (k *Kubelet) allocatable() corev1.ResourceList { return k.machine.allocatable(&k.cfg) }

func (k *Kubelet) allServices() []*corev1.Service {
	var out []*corev1.Service
	for _, obj := range k.services.GetStore().List() {
		out = append(out, obj.(*corev1.Service))
	}
	return out
}

func (k *Kubelet) runtimeName() string {
	if v := k.runtimeInfo.Load(); v != nil && v.RuntimeName != "" {
		return v.RuntimeName
	}
	return "keelson"
}

// knowRuntime asks the runtime's name once: it is part of every container ID.
func (k *Kubelet) knowRuntime(ctx context.Context) error {
	if k.runtimeInfo.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	v, err := k.cri.rt.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return fmt.Errorf("ask the runtime's version: %w", err)
	}
	k.runtimeInfo.Store(v)
	return nil
}

func (k *Kubelet) clusterDNS() []string {
	if a := k.env.Cluster.DNSAddress; a != (netip.Addr{}) {
		return []string{a.String()}
	}
	return nil
}

// event records an event on a pod, or on one of its containers if name is not empty.
func (k *Kubelet) event(pod *corev1.Pod, name, kind, reason, format string, args ...any) {
	ref := &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
	if name != "" {
		_, what := findContainer(pod, name)
		field := map[containerKind]string{kindApp: "containers", kindInit: "initContainers", kindSidecar: "initContainers", kindEphemeral: "ephemeralContainers"}[what]
		ref.FieldPath = fmt.Sprintf("spec.%s{%s}", field, name)
	}
	k.rec.Eventf(ref, kind, reason, format, args...)
}

// sleep waits for d or the end of ctx, and says whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
