package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
)

// SlowStart is the size of the first batch of creations. Batches double while all
// succeed, so what can make no pod (quota, admission) costs a request and not hundreds.
const SlowStart = 1

// InBatches calls f with 0 to n-1, in concurrent batches of doubling size, until a batch
// has an error. It returns how many calls were made.
func InBatches(n, first int, f func(i int) error) (int, error) {
	done := 0
	for size := min(first, n); size > 0; size = min(2*size, n-done) {
		var wg sync.WaitGroup
		errs := make([]error, size)
		for i := range size {
			wg.Go(func() { errs[i] = f(done + i) })
		}
		wg.Wait()
		done += size
		for _, err := range errs {
			if err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// Names that are made from a base and five random characters, as the API server makes them.
const (
	randomLength  = 5
	maxNameLength = 63
)

// Tries of a request whose answer did not come, and the time before the second.
const (
	lostTries = 5
	lostPause = 20 * time.Millisecond
)

// CreatePod creates a pod that has a generateName or a name. The name is chosen here, so
// that a request whose answer got lost can be repeated without making a second pod.
func CreatePod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (*corev1.Pod, error) {
	if pod.Name == "" {
		base := pod.GenerateName
		if limit := maxNameLength - randomLength; len(base) > limit {
			base = base[:limit]
		}
		pod.Name = base + rand.String(randomLength)
	}
	pods := client.CoreV1().Pods(pod.Namespace)
	var created *corev1.Pod
	lost := false
	err := Resend(ctx, func() error {
		var err error
		// A pod of its own for each call: encoding writes to the object.
		created, err = pods.Create(ctx, pod.DeepCopy(), metav1.CreateOptions{})
		if lost && apierrors.IsAlreadyExists(err) {
			if created, err = pods.Get(ctx, pod.Name, metav1.GetOptions{}); err == nil && !sameController(created, pod) {
				err = apierrors.NewAlreadyExists(corev1.Resource("pods"), pod.Name)
			}
		}
		lost = lost || Lost(err)
		return err
	})
	return created, err
}

func sameController(a, b *corev1.Pod) bool {
	ra, rb := metav1.GetControllerOfNoCopy(a), metav1.GetControllerOfNoCopy(b)
	return ra != nil && rb != nil && ra.UID == rb.UID
}

// Lost tells whether err leaves open if the request was executed: it is no answer of the API
// server, or one that says it does not know.
func Lost(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true
	}
	code := status.Status().Code
	return code == http.StatusGatewayTimeout || code == http.StatusBadGateway
}

// Resend calls f until its error is not Lost, a few times at most. f is a request that may
// be executed twice.
func Resend(ctx context.Context, f func() error) error {
	pause := lostPause
	for try := 1; ; try++ {
		err := f()
		if !Lost(err) || try == lostTries {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-timer.C:
		}
		pause *= 2
	}
}
