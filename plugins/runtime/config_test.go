package runtime

import (
	"testing"

	"keelson.dev/keelson/plugins/kit/kittest"
)

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		name   string
		config Config
		fields []string
	}{
		{"defaults", Config{}, nil},
		{"registries", Config{Registries: map[string]Registry{"docker.io": {Mirrors: []string{"mirror.example:5000"}}, "localhost:5000": {Insecure: true}}}, nil},
		{"relative files", Config{DockerConfig: "x", SeccompRoot: "y"}, []string{"dockerConfig", "seccompRoot"}},
		{"hosts", Config{Registries: map[string]Registry{"https://a": {}, "b": {Mirrors: []string{"c", "d/e"}}}}, []string{"registries[b].mirrors[1]", "registries[https://a]"}},
		{"output", Config{MaxExecOutput: 5}, []string{"maxExecOutput"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.config.SetDefaults()
			errs := test.config.Validate()
			if len(errs) != len(test.fields) {
				t.Fatalf("got %v, want faults in %v", errs, test.fields)
			}
			for i, err := range errs {
				if err.Field != test.fields[i] {
					t.Errorf("fault %d: got field %s, want %s", i, err.Field, test.fields[i])
				}
			}
		})
	}
}

func TestNewRefusesUnknownFields(t *testing.T) {
	env := kittest.NewEnv(t, Plugin)
	env.Config = []byte(`{"runtimes":"crun"}`)
	if _, err := Plugin.New(env); err == nil {
		t.Error("an unknown field was taken")
	}
}

func TestMergeResources(t *testing.T) {
	old := mergeResources(nil, nil)
	if old.GetCpuQuota() != 0 {
		t.Errorf("got %v", old)
	}
}
