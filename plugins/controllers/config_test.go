package controllers

import (
	"strings"
	"testing"

	"keelson.dev/keelson/plugins/kit/kittest"
)

func TestConfig(t *testing.T) {
	for _, tt := range []struct{ name, config, want string }{
		{"empty", ``, ""},
		{"one out", `{"controllers":["*","-endpoints"]}`, ""},
		{"no such controller", `{"controllers":["*","-nothing"]}`, "controllers[0]"},
		{"unknown field", `{"workers":3}`, "workers"},
		{"grace shorter than the period", `{"nodeMonitorPeriod":"10s","nodeMonitorGracePeriod":"5s"}`, "nodeMonitorGracePeriod"},
		{"mask", `{"nodeCIDRMaskSizeIPv4":33}`, "nodeCIDRMaskSizeIPv4"},
		{"share of a zone", `{"unhealthyZoneThreshold":1.5}`, "unhealthyZoneThreshold"},
		{"tokens of a moment", `{"legacyTokenCleanUpPeriod":"1h"}`, "legacyTokenCleanUpPeriod"},
		{"size of a zone", `{"largeClusterSizeThreshold":-1}`, "largeClusterSizeThreshold"},
		{"autoscaling", `{"hpaTolerance":0,"hpaSyncPeriod":"30s"}`, ""},
		{"autoscaling too often", `{"hpaSyncPeriod":"1ms"}`, "hpaSyncPeriod"},
		{"autoscaling with no target at all", `{"hpaTolerance":1}`, "hpaTolerance"},
		{"negative threshold", `{"terminatedPodThreshold":-1}`, "terminatedPodThreshold"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := kittest.NewEnv(t, Plugin)
			env.Config = []byte(tt.config)
			_, err := New(env)
			switch want := strings.ReplaceAll(tt.want, "[0]", "["); {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("got %v, want one about %s", err, tt.want)
			}
		})
	}
}

// TestEveryControllerIsMade: taking one out leaves the others.
func TestEveryControllerIsMade(t *testing.T) {
	c := Config{Controllers: []string{"*", "-podgc"}}
	for _, name := range names() {
		if got, want := c.enabled(name), name != "podgc"; got != want {
			t.Errorf("enabled(%s) is %t, want %t", name, got, want)
		}
	}
}
