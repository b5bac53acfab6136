package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdictOf is what the job's pod failure policy makes of a failed pod: the action of the
// first rule that matches, Count if none does, and what matched.
func verdictOf(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) (action batchv1.PodFailurePolicyAction, message string) {
	if policy == nil {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, rule := range policy.Rules {
		if rule.OnExitCodes != nil {
			if c := exitMatch(rule.OnExitCodes, pod); c != nil {
				return rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, rule.Action, i)
			}
			continue
		}
		for _, want := range rule.OnPodConditions {
			if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == want.Type && c.Status == want.Status }) {
				return rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, want.Type, rule.Action, i)
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

// exitMatch is the first container of the pod that a rule about exit codes matches. One that
// ended well is never matched.
func exitMatch(r *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.Pod) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			c := &list[i]
			if c.State.Terminated == nil || (r.ContainerName != nil && *r.ContainerName != c.Name) || c.State.Terminated.ExitCode == 0 {
				continue
			}
			in := slices.Contains(r.Values, c.State.Terminated.ExitCode)
			if in == (r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return c
			}
		}
	}
	return nil
}

// successMatch tells which rule of the job's success policy the succeeded indexes meet, or -1.
func successMatch(policy *batchv1.SuccessPolicy, done indexes, completions int) int {
	if policy == nil {
		return -1
	}
	for i, rule := range policy.Rules {
		if rule.SucceededIndexes != nil {
			want := parseIndexes(*rule.SucceededIndexes, completions)
			need := want.count()
			if rule.SucceededCount != nil {
				need = int(*rule.SucceededCount)
			}
			if done.common(want) >= need {
				return i
			}
		} else if rule.SucceededCount != nil && done.count() >= int(*rule.SucceededCount) {
			return i
		}
	}
	return -1
}
