package scheduler

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

// read is a configuration with a KubeSchedulerConfiguration, as the plugin reads it.
func readKube(t testing.TB, text string) *Config {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c := &Config{KubeSchedulerConfiguration: raw}
	c.SetDefaults()
	return c
}

func TestKubeSchedulerConfiguration(t *testing.T) {
	c := readKube(t, head+`
parallelism: 8
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: /etc/kubernetes/scheduler.conf}
percentageOfNodesToScore: 40
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  percentageOfNodesToScore: 100
  plugins:
    score:
      disabled: [{name: PodTopologySpread}]
      enabled: [{name: NodeResourcesFit, weight: 5}]
    multiPoint:
      disabled: [{name: ImageLocality}, {name: VolumeZone}]
    postFilter:
      disabled: [{name: "*"}]
    permit:
      disabled: [{name: "*"}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResources: [example.com/foo]
      ignoredResourceGroups: [example.org]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: example.com/gpu}]
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}
  - name: NodeResourcesBalancedAllocation
    args: {resources: [{name: cpu, weight: 1}]}
  - name: PodTopologySpread
    args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 7, ignorePreferredTermsOfExistingPods: true}
  - name: NodeAffinity
    args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [batch]}]}]}}}
  - name: VolumeBinding
    args: {bindTimeoutSeconds: 60}
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 20, minCandidateNodesAbsolute: 5}
- schedulerName: bare
  plugins:
    multiPoint:
      disabled: [{name: "*"}]
      enabled: [{name: PrioritySort}, {name: DefaultBinder}, {name: SchedulingGates}, {name: NodeResourcesFit}]
extenders:
- urlPrefix: http://127.0.0.1:1/
  managedResources: [{name: example.com/far, ignoredByScheduler: true}]
`)
	if errs := c.Validate(); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	if c.InitialBackoff.Duration != 2*time.Second || c.MaxBackoff.Duration != 20*time.Second || c.SchedulerName != "default-scheduler" {
		t.Errorf("backoff %s to %s, name %q", c.InitialBackoff.Duration, c.MaxBackoff.Duration, c.SchedulerName)
	}
	p := c.profiles()
	usual, packer, bare := p["default-scheduler"], p["packer"], p["bare"]
	if len(p) != 3 || usual == nil || packer == nil || bare == nil {
		t.Fatalf("profiles: %v", p)
	}
	if usual.filters != allFilters || usual.percentage != 40 || usual.weights[scoreTaintToleration] != 3 || usual.preemption.off {
		t.Errorf("default profile: %+v", usual)
	}
	for name, ok := range map[string]bool{
		"percentage": packer.percentage == 100, "weights": packer.weights[scoreNodeResourcesFit] == 5 && packer.weights[scorePodTopologySpread] == 0 && packer.weights[scoreImageLocality] == 0,
		"filters": packer.filters == allFilters&^filterVolumeZone, "preemption off": packer.preemption.off, "candidates": packer.preemption.minCandidatesPercent == 20 && packer.preemption.minCandidates == 5,
		"scoring":  packer.fit.scoring == requestedToCapacityScoring && len(packer.fit.shape) == 2 && packer.fit.resources[0].weight == 3 && packer.fit.resources[1].weight == 1,
		"ignored":  packer.fit.ignores("example.com/foo") && packer.fit.ignores("example.org/x") && packer.fit.ignores("example.com/far") && usual.fit.ignores("example.com/far") && !usual.fit.ignores("example.com/foo"),
		"balanced": len(packer.balanced) == 1, "spread": !packer.spread.system && len(packer.spread.listed) == 1, "social": packer.social.hardWeight == 7 && packer.social.ignorePreferredOfThere,
		"added": packer.addedAffinity.required != nil && !packer.addedAffinity.required.Match(&corev1.Node{}), "volumes": packer.partArgs.volumeTimeout == time.Minute,
		"bare": bare.filters == filterNodeResourcesFit|filterExtenders && bare.weights[scoreNodeResourcesFit] == 1 && bare.weights[scoreTaintToleration] == 0 && bare.preemption.off,
	} {
		if !ok {
			t.Errorf("%s: not as configured: packer %+v, bare %+v", name, packer, bare)
		}
	}
}

func TestKubeSchedulerConfigurationFaults(t *testing.T) {
	profile := func(s string) string { return head + "profiles:\n- schedulerName: a\n" + s }
	args := func(name, args string) string {
		return profile("  pluginConfig:\n  - name: " + name + "\n    args: " + args + "\n")
	}
	for _, tt := range []struct{ name, text, want string }{
		{"no version", "kind: KubeSchedulerConfiguration", "kubeSchedulerConfiguration.apiVersion"},
		{"old version", "apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration", "v1beta3"},
		{"unknown field", head + "healthzBindAddress: x", `unknown field "healthzBindAddress"`},
		{"unknown field below", profile("  color: red"), `unknown field "profiles[0].color"`},
		{"wrong type", head + "parallelism: many", "kubeSchedulerConfiguration"},
		{"parallelism", head + "parallelism: 0", "kubeSchedulerConfiguration.parallelism"},
		{"backoff", head + "podInitialBackoffSeconds: 0", "podInitialBackoffSeconds"},
		{"backoff's end", head + "podMaxBackoffSeconds: -1", "podMaxBackoffSeconds"},
		{"percentage", head + "percentageOfNodesToScore: 101", "kubeSchedulerConfiguration.percentageOfNodesToScore: Invalid value: 101"},
		{"same name", profile("- schedulerName: a"), "profiles[1].schedulerName: Duplicate"},
		{"no name", profile("- percentageOfNodesToScore: 5"), "profiles[1].schedulerName: Required"},
		{"unknown plugin", profile("  plugins: {filter: {disabled: [{name: Nope}]}}"), "profiles[0].plugins.filter.disabled[0].name: Unsupported value: \"Nope\""},
		{"weight", profile("  plugins: {score: {enabled: [{name: ImageLocality, weight: -1}]}}"), "plugins.score.enabled[0].weight"},
		{"no queue sort", profile("  plugins: {queueSort: {disabled: [{name: \"*\"}]}}"), "plugins.queueSort: Required"},
		{"no binder", profile("  plugins: {bind: {disabled: [{name: DefaultBinder}]}}"), "plugins.bind: Required"},
		{"gates", profile("  plugins: {preEnqueue: {disabled: [{name: SchedulingGates}]}}"), "plugins.preEnqueue"},
		{"half a plugin", profile("  plugins: {preScore: {disabled: [{name: TaintToleration}]}}"), "plugins.preScore.disabled[0].name: Invalid value: \"TaintToleration\""},
		{"args of none", args("NodeName", "{}"), "profiles[0].pluginConfig[0].name: Unsupported value"},
		{"kind of args", args("NodeAffinity", "{kind: OtherArgs}"), "pluginConfig[0].args.kind"},
		{"no args", profile("  pluginConfig: [{name: NodeAffinity}]"), "pluginConfig[0].args: Required"},
		{"unknown arg", args("NodeResourcesFit", "{nope: 1}"), `profiles[0].pluginConfig[0].args: Invalid value: unknown field "nope"`},
		{"strategy", args("NodeResourcesFit", "{scoringStrategy: {type: Best}}"), "args.scoringStrategy.type: Unsupported value"},
		{"no shape", args("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio}}"), "requestedToCapacityRatio: Required"},
		{"shape falls", args("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 9, score: 1}, {utilization: 9, score: 11}]}}}"), "shape[1].utilization"},
		{"weight of a resource", args("NodeResourcesFit", "{scoringStrategy: {resources: [{name: cpu, weight: 101}]}}"), "resources[0].weight"},
		{"ignored", args("NodeResourcesFit", "{ignoredResources: [cpu]}"), "ignoredResources[0]"},
		{"balance", args("NodeResourcesBalancedAllocation", "{resources: [{name: cpu, weight: 2}]}"), "args.resources[0].weight"},
		{"spread", args("PodTopologySpread", "{defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}"), "defaultingType"},
		{"spread's selector", args("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{maxSkew: 0, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]}"), "defaultConstraints[0].labelSelector"},
		{"affinity", args("InterPodAffinity", "{hardPodAffinityWeight: 101}"), "hardPodAffinityWeight"},
		{"added affinity", args("NodeAffinity", "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: Like}]}]}}}"), "addedAffinity.required"},
		{"volumes", args("VolumeBinding", "{bindTimeoutSeconds: -1}"), "bindTimeoutSeconds"},
		{"preemption", args("DefaultPreemption", "{minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}"), "minCandidateNodesPercentage"},
		{"extender's URL", head + "extenders: [{urlPrefix: nowhere}]", "extenders[0].urlPrefix"},
		{"extender's weight", head + "extenders: [{urlPrefix: \"http://h\", prioritizeVerb: p}]", "extenders[0].weight"},
		{"two binders", head + "extenders: [{urlPrefix: \"http://h\", bindVerb: b}, {urlPrefix: \"http://i\", bindVerb: b}]", "extenders[1].bindVerb"},
		{"extender preempts", head + "extenders: [{urlPrefix: \"http://h\", preemptVerb: b}]", "extenders[0].preemptVerb"},
		{"extender's key", head + "extenders: [{urlPrefix: \"https://h\", tlsConfig: {certData: eA==, keyData: eA==}}]", "extenders[0].tlsConfig"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			errs := readKube(t, tt.text).Validate()
			if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), tt.want) {
				t.Errorf("faults are %v, want %q", errs, tt.want)
			}
		})
	}
	c := &Config{SchedulerName: "x", KubeSchedulerConfiguration: json.RawMessage(`{"apiVersion":"kubescheduler.config.k8s.io/v1","kind":"KubeSchedulerConfiguration"}`)}
	c.SetDefaults()
	if errs := c.Validate(); len(errs) != 1 || errs[0].Field != "schedulerName" {
		t.Errorf("a name beside it: %v", errs)
	}
}

func FuzzKubeSchedulerConfiguration(f *testing.F) {
	f.Add(`{"apiVersion":"kubescheduler.config.k8s.io/v1","kind":"KubeSchedulerConfiguration","profiles":[{"plugins":{"score":{"disabled":[{"name":"*"}]}},"pluginConfig":[{"name":"NodeResourcesFit","args":{"scoringStrategy":{"type":"MostAllocated"}}}]}]}`)
	f.Add(`{"profiles":[{}],"extenders":[{"managedResources":[{}]}]}`)
	f.Fuzz(func(_ *testing.T, text string) {
		c := &Config{KubeSchedulerConfiguration: json.RawMessage(text)}
		c.SetDefaults()
		if len(c.Validate()) == 0 {
			c.profiles()
		}
	})
}
