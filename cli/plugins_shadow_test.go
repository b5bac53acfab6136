package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"

	"keelson.dev/keelson/proto/api/v1alpha1"
)

// TestPluginsShadow: what is written for a shadow, what is told of it, and how it takes the
// plugin's place.
func TestPluginsShadow(t *testing.T) {
	f := newFakeAPI(t, swapped())
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("maxBackoff: 5s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	becomes := func(phase v1alpha1.PluginPhase, message string) {
		f.react = func(p *v1alpha1.Plugin) {
			p.Status.ObservedGeneration = p.Generation
			p.Status.Shadow = &v1alpha1.PluginShadowStatus{Revision: "dddddddddd", Phase: phase, Message: message}
		}
	}
	becomes(v1alpha1.PluginRunning, "")
	if _, err := f.run("shadow", "scheduler"); err == nil || !strings.Contains(err.Error(), "say what is to be the shadow") {
		t.Errorf("without anything: got %v", err)
	}
	out, err := f.run("shadow", "scheduler", "--built-in", "--config", config)
	if err != nil {
		t.Fatal(err)
	}
	has(t, out, "revision dddddddddd decides beside bbbbbbbbbb, without effect")
	s := f.plugins["scheduler"].Spec.Shadow
	if s == nil || !s.Source.BuiltIn || string(s.Config.Raw) != `{"maxBackoff":"5s"}` {
		t.Errorf("got %+v", s)
	}
	becomes(v1alpha1.PluginFailed, "spec.shadow.config.x: the plugin knows no such field")
	if out, err = f.run("shadow", "scheduler", "--arg=-v"); err == nil || !strings.Contains(err.Error(), "knows no such field") {
		t.Errorf("one that fails: got %v\n%s", err, out)
	}

	before := *f.plugins["scheduler"].Spec.Shadow
	if _, err = f.run("swap", "scheduler", "--shadow", "--timeout=0"); err != nil {
		t.Fatal(err)
	}
	spec := f.plugins["scheduler"].Spec
	if spec.Shadow != nil || spec.Source != before.Source || !equality.Semantic.DeepEqual(spec.Config, before.Config) || len(spec.Args) != 1 || spec.Kind != "scheduler" {
		t.Errorf("after the swap: got %+v, the shadow was %+v", spec, before)
	}
	if _, err = f.run("swap", "scheduler", "--shadow"); err == nil || !strings.Contains(err.Error(), "has no shadow") {
		t.Errorf("without a shadow: got %v", err)
	}

	becomes(v1alpha1.PluginRunning, "")
	if _, err = f.run("shadow", "scheduler", "--config", config); err != nil {
		t.Fatal(err)
	}
	if out, err = f.run("shadow", "scheduler", "--off"); err != nil || f.plugins["scheduler"].Spec.Shadow != nil {
		t.Errorf("off: got %v, %+v", err, f.plugins["scheduler"].Spec.Shadow)
	}
	has(t, out, "has no shadow")
}
