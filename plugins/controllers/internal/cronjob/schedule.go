package cronjob

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

// manyMissed is the number of starts missed that is worth a warning: the clock may be wrong.
const manyMissed = 100

// parse reads the job's schedule in its time zone. The parser panics at some texts.
func parse(cj *batchv1.CronJob) (sched cron.Schedule, zone *time.Location, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &fault{reason: "UnparseableSchedule", text: fmt.Sprintf("unparseable schedule: %q : %v", cj.Spec.Schedule, r)}
		}
	}()
	text := cj.Spec.Schedule
	zone = time.Local
	if z := cj.Spec.TimeZone; z != nil {
		if zone, err = time.LoadLocation(*z); err != nil {
			return nil, nil, &fault{reason: "UnknownTimeZone", text: fmt.Sprintf("invalid timeZone: %q: %s", *z, err)}
		}
		text = "TZ=" + *z + " " + text
	}
	if sched, err = cron.ParseStandard(text); err != nil {
		return nil, nil, &fault{reason: "UnparseableSchedule", text: fmt.Sprintf("unparseable schedule: %q : %s", cj.Spec.Schedule, err)}
	}
	return sched, zone, nil
}

// fault is what is wrong with a schedule, and the reason of the event about it.
type fault struct{ reason, text string }

func (f *fault) Error() string { return f.text }

// due returns the last start since the previous one that is not after now, zero if there is
// none, and how many there were, counted to just beyond manyMissed.
func due(cj *batchv1.CronJob, sched cron.Schedule, now time.Time) (last time.Time, missed int) {
	earliest := cj.CreationTimestamp.Time
	if t := cj.Status.LastScheduleTime; t != nil {
		earliest = t.Time
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil {
		if from := now.Add(-time.Duration(*d) * time.Second); from.After(earliest) {
			earliest = from
		}
	}
	if every, ok := sched.(cron.ConstantDelaySchedule); ok { // "@every 5m": each start follows from the one before
		n := int(now.Sub(earliest) / every.Delay)
		if n <= 0 {
			return time.Time{}, 0
		}
		return earliest.Add(time.Duration(n) * every.Delay), min(n, manyMissed+1)
	}
	for t := sched.Next(earliest); !t.IsZero() && !t.After(now); t = sched.Next(t) {
		last = t
		if missed++; missed > manyMissed {
			return lastBefore(sched, earliest, now), missed
		}
	}
	return last, missed
}

// lastBefore finds the last start after from and not after now, of which there is one, by
// halving the time: there may be too many to go through.
func lastBefore(sched cron.Schedule, from, now time.Time) time.Time {
	for end := now; end.Sub(from) > time.Second; {
		middle := from.Add(end.Sub(from) / 2)
		if next := sched.Next(middle); next.IsZero() || next.After(now) {
			end = middle
		} else {
			from = middle
		}
	}
	return sched.Next(from)
}

// jobName is the name of the job of one start: the same for each attempt.
func jobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}
