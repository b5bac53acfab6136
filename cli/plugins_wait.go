package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

type rule = rbacv1.PolicyRule

// waitOptions are the flags of commands that wait for a swap.
type waitOptions struct {
	wait                  bool
	timeout               time.Duration
	watchGiven, argsGiven bool
}

func (o *waitOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.wait, "wait", false, "Wait until the watch period is over as well")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "How long to wait for the outcome; 0: not at all")
}

// look is how often the object is read while a swap is under way.
const look = 100 * time.Millisecond

// verdict is how far the swap to a generation is.
type verdict struct {
	done, good bool
	text       string // for people
}

// outcome waits for what becomes of the spec as it is in now, and tells it.
func (p *pluginsCommand) outcome(ctx context.Context, plugins *client.Client, now *v1alpha1.Plugin, changed bool, o waitOptions) error {
	if o.timeout == 0 {
		fmt.Fprintf(p.Out, "plugin %s: changed; keelson plugins inspect %s tells what becomes of it\n", now.Name, now.Name)
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, errors.New("timed out"))
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	generation, told := now.Generation, ""
	for {
		current, err := plugins.Get(ctx, now.Name)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			v := judge(current, generation, o.wait)
			if v.text != told && v.text != "" {
				fmt.Fprintf(p.Out, "plugin %s: %s\n", now.Name, v.text)
				told = v.text
			}
			if v.done && v.good {
				return nil
			}
			if v.done {
				return fmt.Errorf("plugin %s was not swapped: keelson plugins inspect %s tells more", now.Name, now.Name)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("plugin %s: the outcome is not known after %s (last: %s)", now.Name, o.timeout, orNone(told))
		}
	}
}

// judge says what has become of a generation of the spec.
func judge(p *v1alpha1.Plugin, generation int64, wholeWatch bool) verdict {
	s := &p.Status
	if p.Spec.Enabled != nil && !*p.Spec.Enabled {
		return verdict{done: true, good: true, text: "changed; it is disabled, and does not run"}
	}
	if s.ObservedGeneration < generation {
		return verdict{text: ""}
	}
	progressing := meta.FindStatusCondition(s.Conditions, "Progressing")
	switch {
	case s.Phase == v1alpha1.PluginFailed && (progressing == nil || progressing.Status == metav1.ConditionFalse):
		return verdict{done: true, text: "failed: " + s.LastError}
	case progressing == nil:
		progressing = &metav1.Condition{}
	case progressing.Status == metav1.ConditionTrue:
		if progressing.Reason != "Watching" {
			return verdict{text: strings.TrimSpace(strings.ToLower(progressing.Reason) + " " + progressing.Message)}
		}
		text := took(s) + "; the old one is kept for the watch period"
		return verdict{done: !wholeWatch, good: true, text: text}
	}
	switch progressing.Reason {
	case "RolledBack", "Refused":
		return verdict{done: true, text: strings.ToLower(progressing.Reason) + ": " + progressing.Message}
	default:
		if meta.IsStatusConditionTrue(s.Conditions, "Ready") {
			return verdict{done: true, good: true, text: took(s)}
		}
		return verdict{text: strings.TrimSpace("not ready yet " + s.LastError)}
	}
}

// took says what is active, and the gap in which it became so.
func took(s *v1alpha1.PluginStatus) string {
	text := "revision " + orNone(s.Revision) + " is active"
	for i := range s.History {
		if r := &s.History[i]; r.Outcome == v1alpha1.PluginOutcomeActive && r.GapMilliseconds != nil {
			return fmt.Sprintf("%s, gap %d ms", text, *r.GapMilliseconds)
		}
	}
	return text
}
