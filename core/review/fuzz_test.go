package review

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

// FuzzRecord reads records that a crash, a disk or a hand has damaged: an error that names
// the file, or a set that starts; and what was read is what is kept of it again.
func FuzzRecord(f *testing.F) {
	for _, text := range []string{
		`{"kind":"admission","socket":"/run/keelson/admission-a.sock","hooks":{"hooks":[{"name":"a","phase":"PHASE_VALIDATING","sideEffects":"SIDE_EFFECTS_NONE","rules":[{"operations":["OPERATION_CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"]}]}]}}`,
		`{"kind":"authorization","socket":"/x","denyOnFailure":true}`, `{"kind":"authentication"}`, `{"kind":"dns"}`, `{}`, `[]`, `{"kind":"admission","hooks":7}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "p.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := New(slog.New(slog.DiscardHandler), dir)
		if err != nil {
			return
		}
		defer s.Close()
		var first, second record
		if err := json.Unmarshal(text, &first); err != nil {
			t.Fatalf("a set was made of what is no JSON: %v", err)
		}
		if err := s.writeRecord("p", &first); err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(recordPath(dir, "p"))
		if err == nil {
			err = json.Unmarshal(kept, &second)
		}
		if err != nil || first.Kind != second.Kind || first.Socket != second.Socket || first.DenyOnFailure != second.DenyOnFailure {
			t.Fatalf("kept: got %+v, %v, want %+v", second, err, first)
		}
	})
}

// FuzzHooks checks hooks as a plugin may send them: faults with their fields, or hooks that
// outlive being kept.
func FuzzHooks(f *testing.F) {
	for _, h := range []*admissionv1.Hook{
		{Name: "a", Phase: admissionv1.Phase_PHASE_MUTATING, SideEffects: admissionv1.SideEffects_SIDE_EFFECTS_NONE, NamespaceSelector: "a in (b),!c", Rules: []*admissionv1.Rule{{
			Operations: []admissionv1.Operation{admissionv1.Operation_OPERATION_UPDATE}, ApiGroups: []string{"*"}, ApiVersions: []string{"*"}, Resources: []string{"*/*"}, Scope: admissionv1.Scope_SCOPE_CLUSTER,
		}}},
		{Name: "b", MatchConditions: []*admissionv1.MatchCondition{{Name: "x", Expression: "object.metadata.name != 'a'"}}},
	} {
		wire, err := proto.Marshal(&admissionv1.HooksResponse{Hooks: []*admissionv1.Hook{h}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var got admissionv1.HooksResponse
		if proto.Unmarshal(wire, &got) != nil {
			return
		}
		p := &plugin{name: "p"}
		hooks, err := newHooks(p, got.GetHooks())
		if err != nil {
			return
		}
		r := &record{Kind: Admission}
		if err := r.setHooks(&got); err != nil {
			t.Fatalf("keep hooks that are valid: %v\n%s", err, protojson.Format(&got))
		}
		again, err := r.hooks(p)
		if err != nil || len(again) != len(hooks) {
			t.Fatalf("read hooks that were kept: got %d, %v, want %d\n%s", len(again), err, len(hooks), r.Hooks)
		}
		for i := range hooks {
			if hooks[i].name != again[i].name || hooks[i].mutating != again[i].mutating || hooks[i].timeout != again[i].timeout || hooks[i].effects != again[i].effects {
				t.Errorf("hook %d: got %+v, want %+v", i, again[i], hooks[i])
			}
		}
	})
}
