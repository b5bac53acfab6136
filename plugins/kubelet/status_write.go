package kubelet

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// statusWriter writes one pod's status, the latest only, by patches of what differs. At most one request is under way.
type statusWriter struct {
	k *Kubelet
	w *podWorker

	mu      sync.Mutex // guards all below
	api     *corev1.Pod
	want    *corev1.PodStatus
	written bool // want is in the API
	busy    bool
}

// ownConditions are the pod conditions that only the kubelet writes.
var ownConditions = []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady}

func newStatusWriter(k *Kubelet, pod *corev1.Pod, w *podWorker) *statusWriter {
	return &statusWriter{k: k, w: w, api: pod}
}

// observed notes the pod as the API has it.
func (s *statusWriter) observed(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !older(pod, s.api) {
		s.api = pod
	}
}

// base is the status that the next one is computed from: the last computed one, with what others wrote since.
func (s *statusWriter) base(computed *corev1.PodStatus) *corev1.PodStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if computed == nil {
		return &s.api.Status
	}
	out := computed.DeepCopy()
	out.Conditions = slices.DeleteFunc(out.Conditions, func(c corev1.PodCondition) bool { return !slices.Contains(ownConditions, c.Type) })
	for _, c := range s.api.Status.Conditions {
		if !slices.Contains(ownConditions, c.Type) {
			out.Conditions = append(out.Conditions, c)
		}
	}
	out.NominatedNodeName = s.api.Status.NominatedNodeName
	out.ResourceClaimStatuses = s.api.Status.ResourceClaimStatuses
	if p := s.api.Status.Phase; p == corev1.PodFailed || p == corev1.PodSucceeded {
		out.Phase, out.Reason, out.Message = p, s.api.Status.Reason, s.api.Status.Message
	}
	return out
}

// set asks for a status to be written.
func (s *statusWriter) set(status *corev1.PodStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want != nil && equality.Semantic.DeepEqual(s.want, status) && (s.written || s.busy) {
		return
	}
	s.want, s.written = status, false
	if !s.busy {
		s.busy = true
		s.w.ops.Go(s.flush)
	}
}

// settled says whether the last status asked for is in the API.
func (s *statusWriter) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written && !s.busy
}

// flush writes until the latest status is in the API.
func (s *statusWriter) flush() {
	try := retry{first: 50 * time.Millisecond, last: 10 * time.Second}
	for {
		s.mu.Lock()
		want, api := s.want, s.api
		s.mu.Unlock()
		updated, err := s.write(api, want)
		s.mu.Lock()
		if err == nil && updated != nil && !older(updated, s.api) {
			s.api = updated
		}
		if err == nil && s.want == want {
			s.written, s.busy = true, false
			s.mu.Unlock()
			s.w.post(func() {})
			return
		}
		s.mu.Unlock()
		if err != nil {
			s.k.log.Debug("Pod status was not written", "pod", klogRef(api), "err", err)
			try.failed(time.Now())
			if !sleep(s.w.ctx, try.delay) {
				s.mu.Lock()
				s.busy = false
				s.mu.Unlock()
				return
			}
		}
	}
}

func (s *statusWriter) write(api *corev1.Pod, want *corev1.PodStatus) (*corev1.Pod, error) {
	patch, err := statusPatch(api, want)
	if err != nil || patch == nil {
		return nil, err
	}
	updated, err := s.k.client.CoreV1().Pods(api.Namespace).Patch(s.w.calls, api.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil, nil // gone, or another pod of that name: nobody left to tell
	}
	if err != nil {
		return nil, err
	}
	s.k.metrics.statusWrites.Inc()
	if updated.UID != api.UID {
		return nil, nil
	}
	return updated, nil
}

// statusPatch is the difference as a strategic merge patch that holds for this very pod only; nil if there is none.
func statusPatch(api *corev1.Pod, want *corev1.PodStatus) ([]byte, error) {
	if equality.Semantic.DeepEqual(&api.Status, want) {
		return nil, nil
	}
	from, err := json.Marshal(corev1.Pod{Status: api.Status})
	if err != nil {
		return nil, err
	}
	to, err := json.Marshal(corev1.Pod{Status: *want})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, corev1.Pod{})
	if err != nil || string(patch) == "{}" { // times differ below a second
		return nil, err
	}
	return append(fmt.Appendf(nil, `{"metadata":{"uid":%q},`, api.UID), patch[1:]...), nil
}
