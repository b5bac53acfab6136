package autoscaling

import (
	"errors"
	"math"
)

// tolerance is by how much a ratio of use to target may differ from 1, below and above,
// without anything being done.
type tolerance struct{ down, up float64 }

func (t tolerance) holds(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// A measure weighs samples against a target. The ratio is 1 when the target is met.
type measure struct {
	// ratio gives that, and what is said of it in the status.
	ratio func(samples) (ratio float64, use usage, err error)
	// atTarget is the sample of a pod which is as the target has it, taken for pods that
	// are not measured when there might be fewer.
	atTarget func(pod string) int64
}

// usage is what the status says of a metric.
type usage struct {
	percent int32 // of what was requested
	average int64 // of a pod, in thousandths
}

// utilization aims at a percentage of what the pods request.
func utilization(target int32, requested map[string]int64) measure {
	return measure{
		ratio: func(have samples) (float64, usage, error) {
			var used, asked int64
			n := 0
			for pod, s := range have {
				if r, ok := requested[pod]; ok {
					used, asked, n = used+s.value, asked+r, n+1
				}
			}
			if asked == 0 {
				return 0, usage{}, errors.New("no metrics returned matched known pods")
			}
			percent := int32(min(float64(used)*100/float64(asked), math.MaxInt32))
			return float64(percent) / float64(target), usage{percent: percent, average: used / int64(n)}, nil
		},
		atTarget: func(pod string) int64 { return requested[pod] * int64(max(100, target)) / 100 },
	}
}

// average aims at an amount for each pod, in thousandths.
func average(target int64) measure {
	return measure{
		ratio: func(have samples) (float64, usage, error) {
			var used int64
			for _, s := range have {
				used += s.value
			}
			used /= int64(len(have))
			return float64(used) / float64(target), usage{average: used}, nil
		},
		atTarget: func(string) int64 { return target },
	}
}

// errNoSamples: there are pods, and none tells anything.
var errNoSamples = errors.New("did not receive metrics for targeted pods (pods might be unready)")

// count is how many pods there should be for a measure to be 1. Pods of which nothing is
// known are taken for idle when more are wanted, and for as busy as they should be when
// fewer are, so that what is unknown makes a change smaller and never another one.
// It changes have.
func count(current int32, m measure, t tolerance, g group, have samples) (int32, usage, error) {
	for _, list := range [][]string{g.ignored, g.unready} {
		for _, pod := range list {
			delete(have, pod)
		}
	}
	if len(have) == 0 {
		return 0, usage{}, errNoSamples
	}
	ratio, use, err := m.ratio(have)
	if err != nil {
		return 0, usage{}, err
	}
	starting := len(g.unready) > 0 && ratio > 1
	if !starting && len(g.missing) == 0 {
		if t.holds(ratio) {
			return current, use, nil
		}
		return ceil(ratio * float64(g.ready)), use, nil
	}
	for _, pod := range g.missing {
		switch {
		case ratio < 1:
			have[pod] = sample{value: m.atTarget(pod)}
		case ratio > 1:
			have[pod] = sample{}
		}
	}
	if starting {
		for _, pod := range g.unready {
			have[pod] = sample{}
		}
	}
	again, _, err := m.ratio(have)
	if err != nil {
		return 0, usage{}, err
	}
	if t.holds(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return current, use, nil
	}
	n := ceil(again * float64(len(have)))
	if again < 1 && n > current || again > 1 && n < current {
		return current, use, nil
	}
	return n, use, nil
}

// countValue is the number for a metric of the whole: with ready pods now it is used,
// where target is wanted. From nothing it is as if one pod were there.
func countValue(current int32, used, target int64, t tolerance, ready int) int32 {
	ratio := float64(used) / float64(target)
	switch {
	case current == 0:
		return ceil(ratio)
	case t.holds(ratio):
		return current
	}
	return ceil(ratio * float64(ready))
}

// countShare is the number for a metric of the whole of which each pod is to have target;
// share is what each of the pods that there are has.
func countShare(pods int32, used, target int64, t tolerance) (n int32, share int64) {
	n, share = pods, used
	if pods == 0 || !t.holds(float64(used)/(float64(target)*float64(pods))) {
		n = ceil(float64(used) / float64(target))
	}
	if pods > 0 {
		share = int64(math.Ceil(float64(used) / float64(pods)))
	}
	return n, share
}

// ceil rounds up, within what a number of pods can be.
func ceil(f float64) int32 {
	switch f = math.Ceil(f); {
	case math.IsNaN(f) || f <= 0:
		return 0
	case f >= math.MaxInt32:
		return math.MaxInt32
	}
	return int32(f)
}
