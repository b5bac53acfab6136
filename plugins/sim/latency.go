package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Latency is how long something takes: always the same, or drawn anew each time. Its
// text is "2s", "1s..3s" (any time between, all alike), "exp(2s)" (exponential, mean 2s)
// or "normal(2s,500ms)" (mean and standard deviation, never below 0).
type Latency struct {
	text   string
	kind   latencyKind
	a, b   time.Duration
	parsed bool
}

type latencyKind uint8

const (
	constant latencyKind = iota
	uniform
	exponential
	normal
)

// latencyForms is what a Latency may look like.
const latencyForms = `must be a time such as "2s", "1s..3s", "exp(2s)" or "normal(2s,500ms)"`

// ParseLatency reads the text of a Latency.
func ParseLatency(text string) (Latency, error) {
	l := Latency{text: text, parsed: true}
	var first, second string
	two := false
	switch inner, in := strings.CutSuffix(text, ")"); {
	case in && strings.HasPrefix(inner, "exp("):
		l.kind, first = exponential, strings.TrimPrefix(inner, "exp(")
	case in && strings.HasPrefix(inner, "normal("):
		l.kind = normal
		if first, second, two = strings.Cut(strings.TrimPrefix(inner, "normal("), ","); !two {
			return l, fmt.Errorf("%q: %s", text, latencyForms)
		}
	default:
		if first, second, two = strings.Cut(text, ".."); two {
			l.kind = uniform
		}
	}
	var err error
	if l.a, err = time.ParseDuration(strings.TrimSpace(first)); err == nil && two {
		l.b, err = time.ParseDuration(strings.TrimSpace(second))
	}
	switch {
	case err != nil:
		return l, fmt.Errorf("%q: %s", text, latencyForms)
	case l.a < 0 || l.b < 0 || l.a > maxLatency || l.b > maxLatency:
		return l, fmt.Errorf("%q: must be from 0s to %s", text, maxLatency)
	case l.kind == uniform && l.b < l.a:
		return l, fmt.Errorf("%q: the second time is before the first", text)
	}
	return l, nil
}

// maxLatency is the longest time that a Latency may name.
const maxLatency = 1000 * time.Hour

// Draw gives a time.
func (l Latency) Draw() time.Duration {
	var d time.Duration
	switch l.kind {
	case uniform:
		d = l.a + rand.N(l.b-l.a+1)
	case exponential:
		d = time.Duration(rand.ExpFloat64() * float64(l.a))
	case normal:
		d = l.a + time.Duration(rand.NormFloat64()*float64(l.b))
	default:
		d = l.a
	}
	return min(max(d, 0), maxLatency)
}

// String is the text; that of the zero value is "0s".
func (l Latency) String() string {
	if l.text == "" {
		return "0s"
	}
	return l.text
}

// MarshalJSON implements json.Marshaler.
func (l Latency) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// UnmarshalJSON implements json.Unmarshaler. A text that is wrong is kept, so that
// Validate can name the field.
func (l *Latency) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	var err error
	if *l, err = ParseLatency(text); err != nil {
		*l = Latency{text: text}
	}
	return nil
}

// IsZero tells whether it was left out.
func (l Latency) IsZero() bool { return l.text == "" }

// wrong says what is wrong with the text; empty: nothing.
func (l Latency) wrong() string {
	if l.text == "" || l.parsed {
		return ""
	}
	_, err := ParseLatency(l.text)
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(err.Error(), fmt.Sprintf("%q: ", l.text))
}
