package examples

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keelson.dev/keelson/plugins/kit"
	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

// admission marks ConfigMaps and refuses those with a forbidden key.
var admission = kit.Plugin{
	Kind: "admission", Description: "Marks ConfigMaps and refuses forbidden keys.", Scope: kit.ScopeCluster,
	ConfigSchema: `{"type":"object","properties":{"forbidden":{"type":"string","minLength":1}},"additionalProperties":false}`,
	New: func(env *kit.Env) (kit.Runner, error) {
		a := &Admission{Forbidden: "forbidden"}
		if err := env.Decode(a); err != nil {
			return nil, err
		}
		return serve(env, func(s *grpc.Server) { admissionv1.RegisterAdmissionServiceServer(s, a) })
	},
}

// Admission is the contract over ConfigMaps.
type Admission struct {
	admissionv1.UnimplementedAdmissionServiceServer
	// Forbidden is the key that no ConfigMap may have.
	Forbidden string `json:"forbidden"`
}

// mark is the label that ConfigMaps get.
const mark = "example.keelson.dev/seen"

// Hooks implements the contract.
func (*Admission) Hooks(context.Context, *admissionv1.HooksRequest) (*admissionv1.HooksResponse, error) {
	rules := []*admissionv1.Rule{{
		Operations: []admissionv1.Operation{admissionv1.Operation_OPERATION_CREATE, admissionv1.Operation_OPERATION_UPDATE},
		ApiGroups:  []string{""}, ApiVersions: []string{"v1"}, Resources: []string{"configmaps"},
	}}
	unsystematic := "kubernetes.io/metadata.name notin (kube-system)"
	return &admissionv1.HooksResponse{Hooks: []*admissionv1.Hook{
		{
			Name: "mark", Phase: admissionv1.Phase_PHASE_MUTATING, Rules: rules, NamespaceSelector: unsystematic,
			SideEffects: admissionv1.SideEffects_SIDE_EFFECTS_NONE,
		},
		{
			Name: "keys", Phase: admissionv1.Phase_PHASE_VALIDATING, Rules: rules, NamespaceSelector: unsystematic,
			SideEffects: admissionv1.SideEffects_SIDE_EFFECTS_NONE,
		},
	}}, nil
}

// Review implements the contract.
func (a *Admission) Review(_ context.Context, r *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
	var object struct {
		Metadata struct{ Labels map[string]string }
		Data     map[string]string
	}
	if err := json.Unmarshal(r.GetObject(), &object); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "object: %v", err)
	}
	switch r.GetHook() {
	case "mark":
		if object.Metadata.Labels[mark] == "true" {
			return &admissionv1.ReviewResponse{Allowed: true}, nil
		}
		patch := `[{"op":"add","path":"/metadata/labels/example.keelson.dev~1seen","value":"true"}]`
		if object.Metadata.Labels == nil {
			patch = `[{"op":"add","path":"/metadata/labels","value":{"example.keelson.dev/seen":"true"}}]`
		}
		return &admissionv1.ReviewResponse{Allowed: true, Patch: []byte(patch)}, nil
	case "keys":
		if _, bad := object.Data[a.Forbidden]; bad {
			return &admissionv1.ReviewResponse{Status: &admissionv1.Status{Message: fmt.Sprintf("data.%s: this key is forbidden", a.Forbidden)}}, nil
		}
		return &admissionv1.ReviewResponse{Allowed: true, AuditAnnotations: map[string]string{"keys": fmt.Sprint(len(object.Data))}}, nil
	}
	return nil, status.Errorf(codes.NotFound, "hook %q", r.GetHook())
}
