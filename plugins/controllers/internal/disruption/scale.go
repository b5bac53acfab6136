package disruption

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// wanted says how many pods there should be, and how many of them healthy.
func (c *Controller) wanted(ctx context.Context, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, err error) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		if expected, err = c.expected(ctx, b, pods); err != nil {
			return 0, 0, err
		}
		away, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(expected), true)
		if err != nil {
			return 0, 0, fmt.Errorf("maxUnavailable: %w", err)
		}
		return expected, max(0, expected-int32(min(away, int(expected)))), nil //nolint:gosec // at most expected
	case b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.Int:
		return int32(len(pods)), b.Spec.MinAvailable.IntVal, nil //nolint:gosec // no namespace has as many pods
	case b.Spec.MinAvailable != nil:
		if expected, err = c.expected(ctx, b, pods); err != nil {
			return 0, 0, err
		}
		left, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(expected), true)
		if err != nil {
			return 0, 0, fmt.Errorf("minAvailable: %w", err)
		}
		return expected, int32(left), nil //nolint:gosec // a share of expected
	}
	return 0, 0, nil
}

// expected adds up what the controllers of the pods want. Pods without one do
// not count, which their owner is told.
func (c *Controller) expected(ctx context.Context, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (int32, error) {
	sum := int32(0)
	seen := map[types.UID]bool{}
	var unmanaged int
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged++
			continue
		}
		if seen[ref.UID] {
			continue
		}
		seen[ref.UID] = true
		uid, n, err := c.scales.of(ctx, pod.Namespace, ref)
		if err != nil {
			return 0, err
		}
		if uid != ref.UID && seen[uid] { // two sets of one deployment
			continue
		}
		seen[uid] = true
		sum += n
	}
	if unmanaged > 0 {
		c.events.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods",
			"%d pods selected by this PodDisruptionBudget have no controller, so they are not counted as expected", unmanaged)
	}
	return sum, nil
}

// scales finds how many pods a controller is to have.
type scales struct {
	sets        appslisters.ReplicaSetLister
	deployments appslisters.DeploymentLister
	rest        rest.Interface
	mapper      *control.Mapper
}

func newScales(c *control.Context) *scales {
	apps := c.Informers.Apps().V1()
	return &scales{
		sets: apps.ReplicaSets().Lister(), deployments: apps.Deployments().Lister(), rest: c.Discovery.RESTClient(),
		mapper: control.NewMapper(c.Discovery),
	}
}

// of gives the UID of the topmost controller and its number. One that is gone
// wants none.
func (s *scales) of(ctx context.Context, namespace string, ref *metav1.OwnerReference) (types.UID, int32, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, fmt.Errorf("controller %s %s: %w", ref.Kind, ref.Name, err)
	}
	if gv.Group == appsv1.GroupName && ref.Kind == "ReplicaSet" {
		return s.replicaSet(namespace, ref)
	}
	mapping, err := s.mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if err != nil {
		return "", 0, fmt.Errorf("find the resource of controller %s %s: %w", ref.Kind, ref.Name, err)
	}
	root := []string{"/apis", mapping.Resource.Group, mapping.Resource.Version}
	if mapping.Resource.Group == "" {
		root = []string{"/api", mapping.Resource.Version}
	}
	path := append(root, "namespaces", namespace, mapping.Resource.Resource, ref.Name, "scale")
	data, err := s.rest.Get().AbsPath(path...).SetHeader("Accept", "application/json").DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		// Either the object is gone, or its kind has no scale.
		whole := path[:len(path)-1]
		if _, err := s.rest.Get().AbsPath(whole...).SetHeader("Accept", "application/json").DoRaw(ctx); apierrors.IsNotFound(err) {
			return ref.UID, 0, nil
		}
		return "", 0, fmt.Errorf("%s does not implement the scale subresource", mapping.Resource.GroupResource())
	}
	if err != nil {
		return "", 0, fmt.Errorf("get scale of %s %s: %w", ref.Kind, ref.Name, err)
	}
	var scale autoscalingv1.Scale
	if err := json.Unmarshal(data, &scale); err != nil {
		return "", 0, fmt.Errorf("read scale of %s %s: %w", ref.Kind, ref.Name, err)
	}
	if scale.UID != "" && scale.UID != ref.UID {
		return ref.UID, 0, nil
	}
	return ref.UID, scale.Spec.Replicas, nil
}

func (s *scales) replicaSet(namespace string, ref *metav1.OwnerReference) (types.UID, int32, error) {
	rs, err := s.sets.ReplicaSets(namespace).Get(ref.Name)
	if apierrors.IsNotFound(err) || err == nil && rs.UID != ref.UID {
		return ref.UID, 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("get replica set %s/%s: %w", namespace, ref.Name, err)
	}
	if up := metav1.GetControllerOfNoCopy(rs); up != nil && up.Kind == "Deployment" {
		d, err := s.deployments.Deployments(namespace).Get(up.Name)
		if err == nil && d.UID == up.UID {
			return d.UID, number(d.Spec.Replicas), nil
		}
	}
	return rs.UID, number(rs.Spec.Replicas), nil
}

func number(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
