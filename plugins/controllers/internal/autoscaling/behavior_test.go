package autoscaling

import (
	"math/rand/v2"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ago(n int32, seconds int) at { return at{n, noon.Add(-time.Duration(seconds) * time.Second)} }

func rules(window int32, choice autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &choice, Policies: policies}
}

func policy(t autoscalingv2.HPAScalingPolicyType, value, seconds int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: t, Value: value, PeriodSeconds: seconds}
}

func TestSteady(t *testing.T) {
	both := &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(60, "Max"), ScaleDown: rules(300, "Max")}
	for _, tt := range []struct {
		name            string
		behavior        *autoscalingv2.HorizontalPodAutoscalerBehavior
		found           []at
		current, wanted int32
		want            int32
		reason          string
	}{
		{"nothing before", nil, nil, 5, 3, 3, "ReadyForNewScale"},
		{"the highest of five minutes", nil, []at{ago(9, 301), ago(5, 200), ago(4, 100)}, 5, 3, 5, "ScaleDownStabilized"},
		{"up at once", nil, []at{ago(5, 200)}, 5, 8, 8, "ReadyForNewScale"},
		{"up is held for a minute", both, []at{ago(5, 30)}, 5, 8, 5, "ScaleUpStabilized"},
		{"up after a minute", both, []at{ago(5, 61), ago(7, 30)}, 5, 8, 7, "ScaleUpStabilized"},
		{"down is held", both, []at{ago(5, 299)}, 5, 2, 5, "ScaleDownStabilized"},
		{"down after its window", both, []at{ago(5, 301), ago(4, 100)}, 5, 2, 4, "ScaleDownStabilized"},
		{"inside of both", both, []at{ago(4, 10), ago(6, 10)}, 5, 5, 5, "ReadyForNewScale"},
		{"no window down", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, "Max"), ScaleDown: rules(0, "Max")}, []at{ago(9, 1)}, 9, 2, 2, "ReadyForNewScale"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &memory{found: tt.found}
			got := m.steady(tt.behavior, 5*time.Minute, tt.current, tt.wanted, noon)
			if got.n != tt.want || got.reason != tt.reason {
				t.Errorf("got %+v, want %d, %s", got, tt.want, tt.reason)
			}
			if last := m.found[len(m.found)-1]; last != (at{tt.wanted, noon}) {
				t.Errorf("not noted: %v", m.found)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	up := func(r *autoscalingv2.HPAScalingRules) *autoscalingv2.HorizontalPodAutoscalerBehavior {
		return &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: r, ScaleDown: rules(0, "Max", policy("Percent", 100, 15))}
	}
	down := func(r *autoscalingv2.HPAScalingRules) *autoscalingv2.HorizontalPodAutoscalerBehavior {
		return &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, "Max", policy("Percent", 100, 15), policy("Pods", 4, 15)), ScaleDown: r}
	}
	few := []autoscalingv2.HPAScalingPolicy{policy("Pods", 2, 60), policy("Percent", 10, 60)}
	for _, tt := range []struct {
		name            string
		behavior        *autoscalingv2.HorizontalPodAutoscalerBehavior
		ups, downs      []at
		current, wanted int32
		want            int32
		reason          string
	}{
		{"plain: within", nil, nil, nil, 10, 15, 15, "DesiredWithinRange"},
		{"plain: below the least", nil, nil, nil, 10, 1, 2, "TooFewReplicas"},
		{"plain: above the most", nil, nil, nil, 90, 150, 100, "TooManyReplicas"},
		{"plain: twice", nil, nil, nil, 10, 50, 20, "ScaleUpLimit"},
		{"plain: four at least", nil, nil, nil, 1, 50, 4, "ScaleUpLimit"},
		{"up: the most change", up(rules(0, "Max", few...)), nil, nil, 10, 50, 12, "ScaleUpLimit"},
		{"up: the least change", up(rules(0, "Min", few...)), nil, nil, 10, 50, 11, "ScaleUpLimit"},
		{"up: of many, the percentage", up(rules(0, "Max", few...)), nil, nil, 50, 99, 55, "ScaleUpLimit"},
		{"up: disabled", up(rules(0, "Disabled", few...)), nil, nil, 10, 50, 10, "ScaleUpLimit"},
		{"up: what was added counts", up(rules(0, "Max", policy("Pods", 4, 60))), []at{ago(3, 30), ago(9, 61)}, nil, 10, 50, 11, "ScaleUpLimit"},
		{"up: what was taken counts", up(rules(0, "Max", policy("Pods", 4, 60))), nil, []at{ago(3, 30)}, 10, 50, 17, "ScaleUpLimit"},
		{"up: too much was added", up(rules(0, "Max", policy("Pods", 4, 60))), []at{ago(8, 30)}, nil, 10, 50, 10, "ScaleUpLimit"},
		{"up: the most", up(rules(0, "Max", policy("Percent", 900, 60))), nil, nil, 50, 150, 100, "TooManyReplicas"},
		{"down: the most change", down(rules(0, "Max", few...)), nil, nil, 50, 2, 45, "ScaleDownLimit"},
		{"down: the least change", down(rules(0, "Min", few...)), nil, nil, 50, 2, 48, "ScaleDownLimit"},
		{"down: disabled", down(rules(0, "Disabled", few...)), nil, nil, 50, 2, 50, "ScaleDownLimit"},
		{"down: what was taken counts", down(rules(0, "Max", policy("Pods", 4, 60))), nil, []at{ago(3, 30)}, 10, 2, 9, "ScaleDownLimit"},
		{"down: too much was taken", down(rules(0, "Max", policy("Pods", 4, 60))), nil, []at{ago(9, 30)}, 10, 2, 10, "ScaleDownLimit"},
		{"down: a part of a pod may go", down(rules(0, "Max", policy("Percent", 25, 60))), nil, nil, 10, 2, 7, "ScaleDownLimit"},
		{"down: the least", down(rules(0, "Max", policy("Percent", 100, 60))), nil, nil, 10, 1, 2, "TooFewReplicas"},
		{"within", down(rules(0, "Max", few...)), nil, nil, 10, 9, 9, "DesiredWithinRange"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &memory{ups: tt.ups, downs: tt.downs}
			if got := m.limit(tt.behavior, bounds{2, 100}, tt.current, tt.wanted, noon); got.n != tt.want || got.reason != tt.reason {
				t.Errorf("got %+v, want %d, %s", got, tt.want, tt.reason)
			}
		})
	}
}

// TestRate: whatever is wanted, the number differs from that at the begin of a policy's
// period by no more than the policy lets, and stays within its bounds.
func TestRate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's choices
	for range 50 {
		b := &autoscalingv2.HorizontalPodAutoscalerBehavior{
			ScaleUp:   rules(0, "Max", policy("Pods", 1+r.Int32N(5), 60)),
			ScaleDown: rules(0, "Max", policy("Pods", 1+r.Int32N(5), 90)),
		}
		m, now, n := &memory{}, noon, int32(20)
		numbers := []at{{n, now.Add(-time.Hour)}}
		begin := func(period time.Duration) (out int32) {
			for _, before := range numbers {
				if now.Sub(before.time) >= period {
					out = before.n
				}
			}
			return out
		}
		for range 200 {
			now = now.Add(time.Duration(1+r.IntN(20)) * time.Second)
			next := m.limit(b, bounds{3, 60}, n, r.Int32N(80), now).n
			switch {
			case next < 3 || next > 60:
				t.Fatalf("%d pods", next)
			case next > n && next > begin(time.Minute)+b.ScaleUp.Policies[0].Value, next < n && next < begin(90*time.Second)-b.ScaleDown.Policies[0].Value:
				t.Fatalf("from %d to %d with %+v, %v", n, next, b, numbers)
			}
			m.changed(b, n, next, now)
			n = next
			numbers = append(numbers, at{n, now})
		}
		if len(m.ups) > 100 || len(m.downs) > 100 {
			t.Fatalf("%d and %d changes are kept", len(m.ups), len(m.downs))
		}
	}
}
