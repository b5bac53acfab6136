package main

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

// The hooks.
const (
	hookMark = "mark" // gives ConfigMaps a label
	hookKeys = "keys" // looks at their keys
)

// label is what ConfigMaps get.
const label = "example.keelson.dev/seen"

// guard is one activation of the plugin.
type guard struct {
	admissionv1.UnimplementedAdmissionServiceServer
	env    *kit.Env
	config Config
}

// newGuard checks the configuration and allocates. It starts nothing.
func newGuard(env *kit.Env) (*guard, error) {
	g := &guard{env: env}
	return g, env.LoadConfig(&g.config)
}

// Start answers until ctx ends.
func (g *guard) Start(ctx context.Context) error {
	g.env.Health.SetReady()
	return g.env.ServeGRPC(ctx, func(s *grpc.Server) { admissionv1.RegisterAdmissionServiceServer(s, g) })
}

// Shadow answers as Start does: the answers of a shadow are compared, and have no effect.
func (g *guard) Shadow(ctx context.Context) error { return g.Start(ctx) }

// Hooks says what the API server asks about.
func (*guard) Hooks(context.Context, *admissionv1.HooksRequest) (*admissionv1.HooksResponse, error) {
	written := []*admissionv1.Rule{{
		Operations: []admissionv1.Operation{admissionv1.Operation_OPERATION_CREATE, admissionv1.Operation_OPERATION_UPDATE},
		ApiGroups:  []string{""}, ApiVersions: []string{"v1"}, Resources: []string{"configmaps"},
	}}
	const namespaces = "kubernetes.io/metadata.name notin (kube-system)"
	return &admissionv1.HooksResponse{Hooks: []*admissionv1.Hook{
		{
			Name: hookMark, Phase: admissionv1.Phase_PHASE_MUTATING, Rules: written, NamespaceSelector: namespaces,
			SideEffects: admissionv1.SideEffects_SIDE_EFFECTS_NONE,
		},
		{
			Name: hookKeys, Phase: admissionv1.Phase_PHASE_VALIDATING, Rules: written, NamespaceSelector: namespaces,
			SideEffects: admissionv1.SideEffects_SIDE_EFFECTS_NONE,
		},
	}}, nil
}

// configMap is what the hooks look at.
type configMap struct {
	Metadata struct {
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Data map[string]string `json:"data"`
}

// Review decides about one request.
func (g *guard) Review(_ context.Context, r *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
	var object configMap
	if err := json.Unmarshal(r.GetObject(), &object); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "object: %v", err)
	}
	switch r.GetHook() {
	case hookMark:
		patch, err := mark(object.Metadata.Labels)
		return &admissionv1.ReviewResponse{Allowed: true, Patch: patch}, err
	case hookKeys:
		if _, bad := object.Data[g.config.Forbidden]; bad {
			return &admissionv1.ReviewResponse{Status: &admissionv1.Status{Message: fmt.Sprintf("data.%s: this key is forbidden", g.config.Forbidden)}}, nil
		}
		return &admissionv1.ReviewResponse{Allowed: true, AuditAnnotations: map[string]string{hookKeys: fmt.Sprint(len(object.Data))}}, nil
	default:
		return nil, status.Errorf(codes.NotFound, "hook %q", r.GetHook())
	}
}

// mark is the JSON patch that sets the label; none where it is set.
func mark(labels map[string]string) ([]byte, error) {
	if labels[label] == "true" {
		return nil, nil
	}
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	if labels == nil {
		return json.Marshal([]operation{{"add", "/metadata/labels", map[string]string{label: "true"}}})
	}
	return json.Marshal([]operation{{"add", "/metadata/labels/example.keelson.dev~1seen", "true"}})
}

var (
	_ kit.Runner                         = (*guard)(nil)
	_ admissionv1.AdmissionServiceServer = (*guard)(nil)
)
