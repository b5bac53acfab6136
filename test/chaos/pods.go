package chaos

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

type podMap map[types.UID]*corev1.Pod

// Change is one revision of one pod, among all pods of the namespace as they are then.
type Change struct {
	// Type is watch.Added, watch.Modified or watch.Deleted.
	Type watch.EventType
	// Old is the pod before, nil if it is new; New is the pod, or its last state.
	Old, New *corev1.Pod
	// Pods are those there are after the change.
	Pods map[types.UID]*corev1.Pod
}

// Count counts the pods that all of the conditions are true of.
func (c Change) Count(conds ...func(*corev1.Pod) bool) int {
	n := 0
next:
	for _, p := range c.Pods {
		for _, is := range conds {
			if !is(p) {
				continue next
			}
		}
		n++
	}
	return n
}

// Active tells whether a pod has not ended and nobody has asked it to.
func Active(p *corev1.Pod) bool { return !Ended(p) && p.DeletionTimestamp == nil }

// Ended tells whether a pod has succeeded or failed.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Pods sees every revision of the pods of a namespace, in order.
type Pods struct {
	rule func(Change) error
	done chan struct{} // closed when nothing watches any more

	mu   sync.Mutex
	pods podMap // guarded by mu
	at   string // the last revision seen; guarded by mu
	err  error  // the first rule broken; guarded by mu
}

// Err is the first breach of the rule, or what ended the watch.
func (p *Pods) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// At is the resource version of the last change seen.
func (p *Pods) At() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *Pods) begin(ctx context.Context, client kubernetes.Interface, namespace string) error {
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		p.pods[list.Items[i].UID] = &list.Items[i]
	}
	w, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	go p.follow(ctx, w) // closes done, for which the test waits
	return nil
}

func (p *Pods) follow(ctx context.Context, w watch.Interface) {
	defer close(p.done)
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.ResultChan():
			if ctx.Err() != nil {
				return
			}
			pod, isPod := e.Object.(*corev1.Pod)
			if !ok || !isPod {
				p.fail(fmt.Errorf("the test's own watch ended: %v", e.Object))
				return
			}
			p.see(e.Type, pod)
		}
	}
}

func (p *Pods) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

func (p *Pods) see(typ watch.EventType, pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := Change{Type: typ, Old: p.pods[pod.UID], New: pod, Pods: p.pods}
	if typ == watch.Deleted {
		delete(p.pods, pod.UID)
	} else {
		p.pods[pod.UID] = pod
	}
	p.at = pod.ResourceVersion
	if err := p.rule(c); err != nil && p.err == nil {
		p.err = fmt.Errorf("at revision %s (%s %s): %w", pod.ResourceVersion, typ, pod.Name, err)
	}
}
