package job

import (
	"slices"
	"strconv"
	"strings"
)

// span is a run of indexes, both ends in it.
type span struct{ first, last int }

// indexes is a set of completion indexes: spans in order, none of which touches another.
type indexes []span

// parseIndexes reads the format of status.completedIndexes, "1,3-5,7". What is not of it,
// and indexes from limit on, is left out.
func parseIndexes(text string, limit int) indexes {
	var all []int
	var out indexes
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		a, b, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(a)
		if err != nil || first < 0 || first >= limit {
			continue
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(b); err != nil || last < first {
				continue
			}
		}
		last = min(last, limit-1)
		switch n := len(out); {
		case n > 0 && first == out[n-1].last+1:
			out[n-1].last = last
		case n > 0 && first <= out[n-1].last: // by another hand: it is put in order below
			for i := first; i <= last; i++ {
				all = append(all, i)
			}
		default:
			out = append(out, span{first, last})
		}
	}
	return out.with(all)
}

// with is the set and more indexes.
func (x indexes) with(more []int) indexes {
	if len(more) == 0 {
		return x
	}
	spans := slices.Clone(x)
	for _, i := range more {
		spans = append(spans, span{i, i})
	}
	slices.SortFunc(spans, func(a, b span) int { return a.first - b.first })
	out := spans[:1]
	for _, s := range spans[1:] {
		if end := &out[len(out)-1]; s.first <= end.last+1 {
			end.last = max(end.last, s.last)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// has tells whether i is in the set.
func (x indexes) has(i int) bool {
	at, ok := slices.BinarySearchFunc(x, i, func(s span, i int) int { return s.first - i })
	return ok || at > 0 && i <= x[at-1].last
}

// count is how many indexes are in the set.
func (x indexes) count() int {
	n := 0
	for _, s := range x {
		n += s.last - s.first + 1
	}
	return n
}

// common is how many indexes both sets have.
func (x indexes) common(y indexes) int {
	n := 0
	for i, j := 0, 0; i < len(x) && j < len(y); {
		n += max(0, min(x[i].last, y[j].last)-max(x[i].first, y[j].first)+1)
		if x[i].last < y[j].last {
			i++
		} else {
			j++
		}
	}
	return n
}

// String is the format of status.completedIndexes: three and more in a row are a range.
func (x indexes) String() string {
	var out []byte
	for _, s := range x {
		if len(out) > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, int64(s.first), 10)
		switch {
		case s.last == s.first+1:
			out = append(out, ',')
		case s.last > s.first:
			out = append(out, '-')
		default:
			continue
		}
		out = strconv.AppendInt(out, int64(s.last), 10)
	}
	return string(out)
}

// missing returns the first n indexes below limit that none of the sets has.
func missing(n, limit int, sets ...indexes) []int {
	var out []int
next:
	for i := 0; i < limit && len(out) < n; i++ {
		for _, x := range sets {
			at, ok := slices.BinarySearchFunc(x, i, func(s span, i int) int { return s.first - i })
			if !ok {
				at--
			}
			if at >= 0 && i <= x[at].last {
				i = x[at].last // the loop goes on after the span
				continue next
			}
		}
		out = append(out, i)
	}
	return out
}
