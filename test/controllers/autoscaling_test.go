package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// autoscale makes an autoscaler of the same name for a target, which goes down at once.
func (c *cluster) autoscale(name string, target autoscalingv2.CrossVersionObjectReference, most int32, metrics ...autoscalingv2.MetricSpec) {
	c.t.Helper()
	h := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: target, MinReplicas: new(int32(1)), MaxReplicas: most, Metrics: metrics,
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(0))}},
		},
	}
	if _, err := c.admin.AutoscalingV2().HorizontalPodAutoscalers("default").Create(c.ctx, h, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// scaler waits until the autoscaler has what is wanted: "replicas=N" of desired ones,
// "metrics=TEXT" of the current ones, and conditions "TYPE=STATUS/REASON".
func (c *cluster) scaler(name string, want ...string) {
	c.t.Helper()
	c.eventually("autoscaler "+name, func() string {
		h, err := c.admin.AutoscalingV2().HorizontalPodAutoscalers("default").Get(c.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		have := []string{fmt.Sprint("replicas=", h.Status.DesiredReplicas)}
		var all strings.Builder
		for _, s := range h.Status.CurrentMetrics {
			all.WriteString(currentValue(s))
		}
		have = append(have, "metrics="+all.String())
		for _, cond := range h.Status.Conditions {
			have = append(have, fmt.Sprintf("%s=%s/%s", cond.Type, cond.Status, cond.Reason))
		}
		for _, w := range want {
			if !slices.Contains(have, w) {
				return fmt.Sprintf("want %s, have %q, %+v", w, have, h.Status.Conditions)
			}
		}
		return ""
	})
}

func currentValue(s autoscalingv2.MetricStatus) string {
	text := func(v autoscalingv2.MetricValueStatus) string {
		out := string(s.Type)
		if v.AverageUtilization != nil {
			out += fmt.Sprintf(" %d%%", *v.AverageUtilization)
		}
		if v.Value != nil {
			out += " " + v.Value.String()
		}
		if v.AverageValue != nil {
			out += " average " + v.AverageValue.String()
		}
		return out
	}
	switch {
	case s.Resource != nil:
		return text(s.Resource.Current)
	case s.ContainerResource != nil:
		return text(s.ContainerResource.Current)
	case s.Pods != nil:
		return text(s.Pods.Current)
	case s.Object != nil:
		return text(s.Object.Current)
	case s.External != nil:
		return text(s.External.Current)
	}
	return "none"
}

// scalerTold waits for an event about an autoscaler.
func (c *cluster) scalerTold(name, reason, message string) {
	c.t.Helper()
	c.eventually("event "+reason+" of "+name, func() string {
		list, err := c.admin.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err.Error()
		}
		var have []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, message) && e.Source.Component == "horizontal-pod-autoscaler" {
				return ""
			}
			have = append(have, e.Reason+": "+e.Message)
		}
		return "there is only " + strings.Join(have, "\n")
	})
}

func toDeployment(name string) autoscalingv2.CrossVersionObjectReference {
	return autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}
}

func quantity(s string) *resource.Quantity { return new(resource.MustParse(s)) }

func averageOf(s string) autoscalingv2.MetricTarget {
	return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: quantity(s)}
}

func externally(name string, target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: name, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"queue": "q"}}}, Target: target,
	}}
}

// TestAutoscaling scales targets by each kind of metric through an aggregated API, and
// says what it cannot do.
func TestAutoscaling(t *testing.T) {
	c := start(t, `{"hpaSyncPeriod":"300ms","hpaCPUInitializationPeriod":"1ms","hpaInitialReadinessDelay":"1ms"}`, "n1")
	c.serveMetrics(
		map[string]string{"busy": "20m", "boxes": "20m", "idle": "1m"}, // where 10m are asked for
		map[string]string{"requests": "30", "hits": "500", "waiting": "90"},
	)
	percent := autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(100))}
	cpu := autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: percent}}
	for _, tt := range []struct {
		name  string
		from  int32
		most  int32
		specs []autoscalingv2.MetricSpec
		want  []string
		why   string // of the event SuccessfulRescale
	}{
		{"busy", 1, 3, []autoscalingv2.MetricSpec{cpu}, // each pod stays at 200 %, so it is the most
			[]string{"replicas=3", "metrics=Resource 200% average 20m", "ScalingLimited=True/TooManyReplicas", "ScalingActive=True/ValidMetricFound", "AbleToScale=True/ReadyForNewScale"},
			"New size: 2; reason: cpu resource utilization (percentage of request) above target"},
		{"idle", 3, 5, []autoscalingv2.MetricSpec{cpu},
			[]string{"replicas=1", "metrics=Resource 10% average 1m", "ScalingLimited=False/DesiredWithinRange"}, "New size: 1; reason: All metrics below target"},
		{"boxes", 1, 2, []autoscalingv2.MetricSpec{{Type: autoscalingv2.ContainerResourceMetricSourceType,
			ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "cpu", Container: "c", Target: averageOf("10m")}}},
			[]string{"replicas=2", "metrics=ContainerResource average 20m"}, "New size: 2; reason: cpu resource above target"},
		{"perpod", 1, 2, []autoscalingv2.MetricSpec{{Type: autoscalingv2.PodsMetricSourceType,
			Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "requests"}, Target: averageOf("10")}}},
			[]string{"replicas=2", "metrics=Pods average 30"}, "New size: 2; reason: pods metric requests above target"},
		{"object", 1, 3, []autoscalingv2.MetricSpec{{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "hits"}, DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "kubernetes"},
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: quantity("200")},
		}}}, []string{"replicas=3", "metrics=Object 500"}, "reason: Service metric hits above target"},
		{"outside", 1, 9, []autoscalingv2.MetricSpec{externally("waiting", averageOf("30"))},
			[]string{"replicas=3", "metrics=External average 30", "ScalingLimited=False/DesiredWithinRange"}, "New size: 3; reason: external metric waiting("},
		{"partly", 1, 9, []autoscalingv2.MetricSpec{externally("nothing", averageOf("30")), externally("waiting", averageOf("45"))}, // more in spite of an unknown one
			[]string{"replicas=2", "metrics=noneExternal average 45"}, "New size: 2; reason: external metric waiting("},
		{"many", 4, 2, []autoscalingv2.MetricSpec{cpu}, []string{"replicas=2"}, "New size: 2; reason: Current number of replicas above Spec.MaxReplicas"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := c.in(t)
			c.deploy(deployment(tt.name, tt.from))
			c.rolledOut(tt.name)
			c.autoscale(tt.name, toDeployment(tt.name), tt.most, tt.specs...)
			c.scaler(tt.name, tt.want...)
			c.scalerTold(tt.name, "SuccessfulRescale", tt.why)
		})
	}
	t.Run("what is wrong is said", func(t *testing.T) { c.in(t).autoscaleFaults(cpu) })
	t.Run("custom resource", func(t *testing.T) { c.in(t).autoscaleCustom() })
}

// in is the cluster for a part of the test.
func (c *cluster) in(t *testing.T) *cluster {
	out := *c
	out.t = t
	return &out
}

func (c *cluster) autoscaleFaults(cpu autoscalingv2.MetricSpec) {
	c.autoscale("nowhere", toDeployment("nowhere"), 3, cpu)
	c.scaler("nowhere", "AbleToScale=False/FailedGetScale")
	c.scalerTold("nowhere", "FailedGetScale", `"nowhere" not found`)

	c.deploy(deployment("still", 0))
	c.autoscale("still", toDeployment("still"), 3, cpu)
	c.scaler("still", "replicas=0", "ScalingActive=False/ScalingDisabled")

	c.deploy(deployment("unknown", 1))
	c.autoscale("unknown", toDeployment("unknown"), 3, externally("nothing", averageOf("30")))
	c.scaler("unknown", "ScalingActive=False/FailedGetExternalMetric", "AbleToScale=True/SucceededGetScale")
	c.scalerTold("unknown", "FailedComputeMetricsReplicas", "invalid metrics (1 invalid out of 1), first error is: failed to get nothing external metric value: "+
		"unable to get external metric default/nothing/")

	c.deploy(deployment("twofold", 1))
	c.rolledOut("twofold")
	c.autoscale("first", toDeployment("twofold"), 3, externally("waiting", averageOf("1000")))
	c.scaler("first", "ScalingActive=True/ValidMetricFound")
	c.autoscale("second", toDeployment("twofold"), 3, externally("waiting", averageOf("1000")))
	for _, name := range []string{"first", "second"} {
		c.scaler(name, "ScalingActive=False/AmbiguousSelector")
		c.scalerTold(name, "AmbiguousSelector", "pods by selector app=twofold are controlled by multiple HPAs: [default/first default/second]")
	}
	if err := c.admin.AutoscalingV2().HorizontalPodAutoscalers("default").Delete(c.ctx, "second", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.scaler("first", "ScalingActive=True/ValidMetricFound")
}

// autoscaleCustom scales an object of a kind made now.
func (c *cluster) autoscaleCustom() {
	crds, err := apiextensions.NewForConfig(c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "fleets.late.example"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "late.example", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "fleets", Kind: "Fleet"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Scale: &apiextensionsv1.CustomResourceSubresourceScale{
					SpecReplicasPath: ".spec.ships", StatusReplicasPath: ".status.ships", LabelSelectorPath: new(".status.selector"),
				}},
			}},
		},
	}
	if _, err := crds.ApiextensionsV1().CustomResourceDefinitions().Create(c.ctx, crd, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(c.config)
	if err != nil {
		c.t.Fatal(err)
	}
	fleets := objects.Resource(schema.GroupVersionResource{Group: "late.example", Version: "v1", Resource: "fleets"}).Namespace("default")
	fleet := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "late.example/v1", "kind": "Fleet", "metadata": map[string]any{"name": "armada"},
		"spec": map[string]any{"ships": int64(2)}, "status": map[string]any{"ships": int64(2), "selector": "fleet=armada"},
	}}
	c.eventually("a fleet is made", func() string {
		if _, err := fleets.Create(c.ctx, fleet, metav1.CreateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	c.autoscale("armada", autoscalingv2.CrossVersionObjectReference{APIVersion: "late.example/v1", Kind: "Fleet", Name: "armada"}, 9, externally("waiting", averageOf("18")))
	c.scalerTold("armada", "SuccessfulRescale", "New size: 5;")
	c.scaler("armada", "replicas=5")
	got, err := fleets.Get(c.ctx, "armada", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(got.Object, "spec", "ships"); n != 5 {
		c.t.Errorf("the fleet has %v, want 5 ships", got.Object)
	}
}
