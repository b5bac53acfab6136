// Command picky is a scheduler that decides as no good one would, and only as a shadow: a
// pod goes to the first node by its name, and one with a label to none. It also tries to
// bind, which a shadow may not.
package main

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/kit"
)

// label is that of pods for which it finds no node.
const label = "picky.example.keelson.dev"

var plugin = kit.Plugin{
	Name: "scheduler", Kind: "scheduler", Version: "0.0.1", Description: "Finds no node for pods with a label.", Scope: kit.ScopeCluster,
	Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"list", "watch"}, APIGroups: []string{""}, Resources: []string{"pods", "nodes"}},
		{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods/binding"}},
	},
	New: func(env *kit.Env) (kit.Runner, error) { return &scheduler{env}, nil },
}

func main() { kit.Main(plugin) }

type scheduler struct{ env *kit.Env }

// Start implements kit.Runner.
func (*scheduler) Start(context.Context) error {
	return errors.New("this scheduler is a shadow and no more")
}

// Shadow implements kit.Shadower.
func (s *scheduler) Shadow(ctx context.Context) error {
	client, err := s.env.Clientset()
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	defer factory.Shutdown()
	nodes, pods := factory.Core().V1().Nodes().Informer(), factory.Core().V1().Pods().Informer()
	handled, err := pods.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{AddFunc: func(obj any, initial bool) {
		if pod, ok := obj.(*corev1.Pod); ok && !initial {
			s.decide(ctx, client, nodes.GetStore(), pod)
		}
	}})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	factory.Start(ctx.Done())
	if cache.WaitForCacheSync(ctx.Done(), nodes.HasSynced, handled.HasSynced) {
		s.env.Health.SetReady()
	}
	<-ctx.Done()
	return nil
}

func (s *scheduler) decide(ctx context.Context, client kubernetes.Interface, nodes cache.Store, pod *corev1.Pod) {
	d := kit.Decision{Key: string(pod.UID), Subject: pod.Namespace + "/" + pod.Name, Value: kit.Unschedulable, Reason: "it is picky"}
	if pod.Labels[label] == "" {
		d.Value, d.Reason = "", ""
		for _, name := range nodes.ListKeys() {
			if d.Value == "" || name < d.Value {
				d.Value = name
			}
		}
	}
	s.env.Decisions.Tell(d)
	err := client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "nowhere"},
	}, metav1.CreateOptions{})
	s.env.Log.Info("Tried to bind a pod", "pod", d.Subject, "err", fmt.Sprint(err))
}

var _ kit.Shadower = (*scheduler)(nil)
