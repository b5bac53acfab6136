package sim

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// Label is on each simulated node; its value is the NamePrefix of who plays it.
const Label = v1alpha1.SimLabel

// writeTimeout bounds one request.
const writeTimeout = 30 * time.Second

// Server plays the nodes.
type Server struct {
	env     *kit.Env
	log     *slog.Logger
	config  Config
	client  kubernetes.Interface
	metrics *metrics

	pods  *agenda[*pod]
	beats *agenda[*beat]

	mu     sync.Mutex // guards all below, and the fields of nodes and pods
	nodes  map[string]*node
	byUID  map[types.UID]*pod
	shapes map[string]*shape
}

var _ kit.Runner = (*Server)(nil)

// New checks the configuration and starts nothing.
func New(env *kit.Env) (*Server, error) {
	s := &Server{
		env: env, log: env.Log, pods: newAgenda[*pod](), beats: newAgenda[*beat](),
		nodes: map[string]*node{}, byUID: map[types.UID]*pod{}, shapes: map[string]*shape{},
	}
	if err := env.LoadConfig(&s.config); err != nil {
		return nil, err
	}
	var err error
	if s.metrics, err = newMetrics(env.Metrics, s); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if env.RESTConfig == nil {
		return s, nil
	}
	if s.client, err = env.Clientset(); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return s, nil
}

// Start plays the nodes until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	if s.client == nil {
		return fmt.Errorf("start sim: there is no API to work with")
	}
	s.env.Health.SetStarting("Making the nodes")
	group, ctx := errgroup.WithContext(ctx)
	work(ctx, group, s.beats, min(max(s.config.Nodes/5, 2), 200), s.metrics.late("heartbeat"), s.beat)
	work(ctx, group, s.pods, s.config.Writers, s.metrics.late("pod"), s.play)
	group.Go(func() error {
		if err := s.makeNodes(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		nodes, pods := s.feeds()
		group.Go(func() error { nodes.run(ctx, s.client); return nil })
		group.Go(func() error { pods.run(ctx, s.client); return nil })
		for _, synced := range []<-chan struct{}{nodes.synced, pods.synced} {
			select {
			case <-synced:
			case <-ctx.Done():
				return nil
			}
		}
		s.env.Health.SetReady()
		s.log.Info("Nodes are played", "nodes", s.config.Nodes, "prefix", s.config.NamePrefix)
		return nil
	})
	group.Go(func() error { <-ctx.Done(); return nil })
	return group.Wait()
}

// work runs an agenda and those who do what is due.
func work[T item](ctx context.Context, group *errgroup.Group, a *agenda[T], workers int, late func(time.Duration), do func(context.Context, T)) {
	due := make(chan T)
	group.Go(func() error { a.run(ctx, due, late); return nil })
	for range workers {
		group.Go(func() error {
			for x := range due {
				do(ctx, x)
			}
			return nil
		})
	}
}

// feeds are the watches: of the nodes, and of all pods that have one.
func (s *Server) feeds() (*feed[*corev1.Node], *feed[*corev1.Pod]) {
	core := s.client.CoreV1()
	nodes := &feed[*corev1.Node]{
		object: &corev1.Node{}, list: wrap(core.Nodes().List), watch: core.Nodes().Watch, synced: make(chan struct{}),
		changed: s.nodeChanged, removed: func(n *corev1.Node) { s.nodeRemoved(n.Name) }, replaced: s.nodesReplaced,
		narrow: func(o *metav1.ListOptions) {
			o.LabelSelector = labels.Set{Label: s.config.NamePrefix}.String()
		},
	}
	all := core.Pods(metav1.NamespaceAll)
	pods := &feed[*corev1.Pod]{
		object: &corev1.Pod{}, list: wrap(all.List), watch: all.Watch, synced: make(chan struct{}),
		changed: s.podChanged, removed: func(p *corev1.Pod) { s.podRemoved(p.UID) }, replaced: s.podsReplaced,
		narrow: func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermNotEqualSelector("spec.nodeName", "").String()
		},
	}
	return nodes, pods
}

// counts are how many nodes and pods there are.
func (s *Server) counts() (nodes, pods int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.nodes), len(s.byUID)
}
