package autoscaling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// scales reads and writes the scale subresources of any kind.
type scales struct {
	rest   rest.Interface
	mapper meta.RESTMapper
}

// scaled is a scale with where it is from.
type scaled struct {
	*autoscalingv1.Scale
	path []string
}

// get gives the scale that a reference means. The version in the reference need not be
// one that is served.
func (s *scales) get(ctx context.Context, namespace string, ref *autoscalingv2.CrossVersionObjectReference) (*scaled, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	mappings, err := s.mapper.RESTMappings(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if err != nil {
		return nil, fmt.Errorf("unable to determine resource for scale target reference: %w", err)
	}
	var first error
	for _, m := range mappings {
		path := append(root(m.Resource), "namespaces", namespace, m.Resource.Resource, ref.Name, "scale")
		scale, err := s.do(ctx, s.rest.Get().AbsPath(path...))
		if err == nil {
			return &scaled{Scale: scale, path: path}, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = errors.New("unrecognized resource")
	}
	return nil, first
}

func root(r schema.GroupVersionResource) []string {
	if r.Group == "" {
		return []string{"/api", r.Version}
	}
	return []string{"/apis", r.Group, r.Version}
}

// set asks for n pods, unless the target has changed since it was read.
func (s *scales) set(ctx context.Context, of *scaled, n int32) error {
	next := of.DeepCopy()
	next.Spec.Replicas = n
	data, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode scale: %w", err)
	}
	_, err = s.do(ctx, s.rest.Put().AbsPath(of.path...).SetHeader("Content-Type", runtime.ContentTypeJSON).Body(data))
	return err
}

func (s *scales) do(ctx context.Context, r *rest.Request) (*autoscalingv1.Scale, error) {
	answer := r.SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx)
	if err := answer.Error(); err != nil { // which reads what the server says, as Raw does not
		return nil, err
	}
	data, err := answer.Raw()
	if err != nil {
		return nil, err
	}
	out := &autoscalingv1.Scale{}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("read scale: %w", err)
	}
	return out, nil
}
