package autoscaling

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// at is a number of pods at a time: one that was found right, or a change made.
type at struct {
	n    int32
	time time.Time
}

// memory is what is known of an autoscaler's past, as far as its windows reach. It is
// lost with the process; the first look then counts as having found the present number
// right, so nothing is scaled down before the window has passed.
type memory struct {
	found []at // numbers that metrics asked for
	ups   []at // pods added
	downs []at // pods taken away
}

// bounds are the numbers that an autoscaler may choose from.
type bounds struct{ min, max int32 }

// limited is a number with the reason for it.
type limited struct {
	n               int32
	reason, message string
}

// Reasons and their messages.
const (
	reasonReady       = "ReadyForNewScale"
	messageReady      = "recommended size matches current size"
	reasonDownSteady  = "ScaleDownStabilized"
	messageDownSteady = "recent recommendations were higher than current one, applying the highest recent recommendation"
	reasonUpSteady    = "ScaleUpStabilized"
	messageUpSteady   = "recent recommendations were lower than current one, applying the lowest recent recommendation"
	reasonFew         = "TooFewReplicas"
	messageFew        = "the desired replica count is less than the minimum replica count"
	reasonMany        = "TooManyReplicas"
	messageMany       = "the desired replica count is more than the maximum replica count"
	reasonUpLimit     = "ScaleUpLimit"
	messageUpLimit    = "the desired replica count is increasing faster than the maximum scale rate"
	reasonDownLimit   = "ScaleDownLimit"
	messageDownLimit  = "the desired replica count is decreasing faster than the maximum scale rate"
	reasonWithin      = "DesiredWithinRange"
	messageWithin     = "the desired count is within the acceptable range"
	leastBurst        = 4 // to as many pods it may go at once, from any number
	burstFactor       = 2 // and to as many times those there are
	percent           = 100
)

// steady is the number that the stabilization windows leave of wanted: not more than the
// least found right lately, nor less than the most.
func (m *memory) steady(b *autoscalingv2.HorizontalPodAutoscalerBehavior, window time.Duration, current, wanted int32, now time.Time) limited {
	var up, down time.Duration
	if down = window; b != nil {
		up = seconds(b.ScaleUp, 0)
		down = seconds(b.ScaleDown, window)
	}
	lowest, highest := wanted, wanted
	kept := m.found[:0]
	for _, f := range m.found {
		age := now.Sub(f.time)
		if age < up {
			lowest = min(lowest, f.n)
		}
		if age < down {
			highest = max(highest, f.n)
		}
		if age < max(up, down) {
			kept = append(kept, f)
		}
	}
	m.found = append(kept, at{wanted, now})
	if b == nil {
		if highest != wanted {
			return limited{highest, reasonDownSteady, messageDownSteady}
		}
		return limited{wanted, reasonReady, messageReady}
	}
	n := min(max(current, lowest), highest)
	switch {
	case n == wanted:
		return limited{n, reasonReady, messageReady}
	case wanted >= current:
		return limited{n, reasonUpSteady, messageUpSteady}
	}
	return limited{n, reasonDownSteady, messageDownSteady}
}

func seconds(r *autoscalingv2.HPAScalingRules, other time.Duration) time.Duration {
	if r == nil || r.StabilizationWindowSeconds == nil {
		return other
	}
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}

// limit is the number that the bounds and the rates of the policies leave of wanted.
func (m *memory) limit(b *autoscalingv2.HorizontalPodAutoscalerBehavior, in bounds, current, wanted int32, now time.Time) limited {
	if b == nil {
		return limitPlain(in, current, wanted)
	}
	switch {
	case wanted > current:
		most := limited{in.max, reasonMany, messageMany}
		if n := max(current, m.fastest(b.ScaleUp, current, now, true)); n < in.max {
			most = limited{n, reasonUpLimit, messageUpLimit}
		}
		if wanted > most.n {
			return most
		}
	case wanted < current:
		least := limited{in.min, reasonFew, messageFew}
		if n := min(current, m.fastest(b.ScaleDown, current, now, false)); n > in.min {
			least = limited{n, reasonDownLimit, messageDownLimit}
		}
		if wanted < least.n {
			return least
		}
	}
	return limited{wanted, reasonWithin, messageWithin}
}

// limitPlain is for an autoscaler without behaviour.
func limitPlain(in bounds, current, wanted int32) limited {
	most := limited{in.max, reasonMany, messageMany}
	if burst := max(int64(current)*burstFactor, leastBurst); burst < int64(in.max) {
		most = limited{int32(burst), reasonUpLimit, messageUpLimit}
	}
	switch {
	case wanted < in.min:
		return limited{in.min, reasonFew, messageFew}
	case wanted > most.n:
		return most
	}
	return limited{wanted, reasonWithin, messageWithin}
}

// fastest is how far the policies let the number go, up or down, at this moment: each
// from where it was at the begin of its period.
func (m *memory) fastest(r *autoscalingv2.HPAScalingRules, current int32, now time.Time, up bool) int32 {
	choice := autoscalingv2.MaxChangePolicySelect
	if r == nil {
		r = &autoscalingv2.HPAScalingRules{}
	}
	if r.SelectPolicy != nil {
		choice = *r.SelectPolicy
	}
	if choice == autoscalingv2.DisabledPolicySelect {
		return current
	}
	// The most change is the highest number on the way up and the lowest on the way down.
	highest := up == (choice != autoscalingv2.MinChangePolicySelect)
	out := int64(math.MaxInt32)
	if highest {
		out = math.MinInt32
	}
	for _, p := range r.Policies {
		period := time.Duration(p.PeriodSeconds) * time.Second
		begin := int64(current) - sum(m.ups, period, now) + sum(m.downs, period, now)
		var n int64
		switch sign := map[bool]int64{true: 1, false: -1}[up]; p.Type {
		case autoscalingv2.PodsScalingPolicy:
			n = begin + sign*int64(p.Value)
		case autoscalingv2.PercentScalingPolicy:
			if n = begin * (percent + sign*int64(p.Value)); up {
				n += percent - 1 // a part of a pod is one
			}
			n /= percent
		default:
			continue
		}
		if highest {
			out = max(out, n)
		} else {
			out = min(out, n)
		}
	}
	return int32(min(max(out, math.MinInt32), math.MaxInt32))
}

func sum(changes []at, period time.Duration, now time.Time) int64 {
	var n int64
	for _, c := range changes {
		if now.Sub(c.time) < period {
			n += int64(c.n)
		}
	}
	return n
}

// changed notes a change that was made, for the policies.
func (m *memory) changed(b *autoscalingv2.HorizontalPodAutoscalerBehavior, before, after int32, now time.Time) {
	if b == nil {
		return
	}
	if after > before {
		m.ups = append(young(m.ups, longest(b.ScaleUp, b.ScaleDown), now), at{after - before, now})
	} else if after < before {
		m.downs = append(young(m.downs, longest(b.ScaleUp, b.ScaleDown), now), at{before - after, now})
	}
}

// longest is the longest period of the policies of any direction: each looks at changes
// both ways.
func longest(rules ...*autoscalingv2.HPAScalingRules) time.Duration {
	var d time.Duration
	for _, r := range rules {
		if r == nil {
			continue
		}
		for _, p := range r.Policies {
			d = max(d, time.Duration(p.PeriodSeconds)*time.Second)
		}
	}
	return d
}

func young(changes []at, period time.Duration, now time.Time) []at {
	out := changes[:0]
	for _, c := range changes {
		if now.Sub(c.time) < period {
			out = append(out, c)
		}
	}
	return out
}
