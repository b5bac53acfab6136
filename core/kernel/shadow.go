package kernel

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/core/auth"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/review"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// conditionShadowReady is there while a Plugin has a shadow.
const conditionShadowReady = "ShadowReady"

// shadows is what the plugin host needs to run shadows: only servers run any.
func (s *server) shadows(client kubernetes.Interface) *pluginhost.Shadows {
	return &pluginhost.Shadows{
		Client: func(name string) (pluginhost.KeyPair, error) {
			pair, err := s.pki.ClientPair(auth.ShadowPrefix+name, []string{auth.ShadowsGroup}, 0)
			return pluginhost.KeyPair(pair), err
		},
		Accept: func(ctx context.Context, d pluginhost.Description) error {
			return auth.EnsureShadowRole(ctx, client, d.Name, d.Rules)
		},
		Revoke: func(ctx context.Context, name string) error { return auth.RemoveShadowRole(ctx, client, name) },
	}
}

// hostShadow is a Plugin's spec.shadow in the words of the plugin host.
func hostShadow(s *v1alpha1.PluginShadow) *pluginhost.ShadowSpec {
	if s == nil {
		return nil
	}
	out := &pluginhost.ShadowSpec{
		BuiltIn: s.Source.BuiltIn, Program: s.Source.Program, Path: s.Source.Path, SHA256: s.Source.SHA256, Args: s.Args,
	}
	if s.Config != nil {
		out.Config = s.Config.Raw
	}
	return out
}

func apiShadow(s pluginhost.ShadowStatus) *v1alpha1.PluginShadowStatus {
	if s.Revision == "" {
		return nil
	}
	return &v1alpha1.PluginShadowStatus{
		Revision: s.Revision, Phase: phaseOf(s.Phase), PID: int64(s.PID), Message: shortened(s.Message),
		Restarts: int32(s.Restarts), Version: s.Version,
	}
}

// setShadowCondition keeps the condition of the shadow, while there is one.
func setShadowCondition(p *v1alpha1.Plugin, s pluginhost.ShadowStatus) {
	if s.Revision == "" {
		meta.RemoveStatusCondition(&p.Status.Conditions, conditionShadowReady)
		return
	}
	c := metav1.Condition{
		Type: conditionShadowReady, Status: metav1.ConditionFalse, Reason: string(s.Phase), Message: shortened(s.Message),
		ObservedGeneration: p.Status.ObservedGeneration,
	}
	if s.Phase == pluginhost.PhaseRunning {
		c.Status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&p.Status.Conditions, c)
}

// tellShadow tells the API server, which asks admission plugins, of their shadows.
func (s *pluginSync) tellShadow(name string, status pluginhost.Status) {
	if s.reviews == nil || status.Description == nil || status.Description.Kind != review.Admission {
		return
	}
	sh := status.Shadow
	if sh.Phase != pluginhost.PhaseRunning && sh.Phase != pluginhost.PhaseDegraded {
		s.reviews.ShadowDown(name)
		return
	}
	s.reviews.ShadowRunning(name, fmt.Sprintf("%d at %d", sh.PID, sh.StartedAt.UnixNano()),
		pluginhost.ShadowSocket(s.runDir, review.Admission, name), sides{s.host.Sides(name)})
}

// sides hands what admission plugins and their shadows answer to the plugin host.
type sides struct{ to pluginhost.Sides }

var _ review.Sides = sides{}

// Active implements review.Sides.
func (s sides) Active(key, subject, decision string) {
	s.to.Active(pluginhost.Decided{Key: key, Subject: subject, Decision: decision})
}

// Shadow implements review.Sides.
func (s sides) Shadow(key, subject, decision string) {
	s.to.Shadow(pluginhost.Decided{Key: key, Subject: subject, Decision: decision})
}

// Lost implements review.Sides.
func (s sides) Lost() { s.to.Lost(1) }

// Comparison is where a shadow decides otherwise.
func (o operator) Comparison(ctx context.Context, name string) (*v1alpha1.PluginComparison, error) {
	if err := o.there(ctx); err != nil {
		return nil, err
	}
	c, err := o.s.host.Comparison(name)
	if errors.Is(err, pluginhost.ErrNoShadow) {
		none := apierrors.NewNotFound(v1alpha1.Resource("plugins/comparison"), name)
		none.ErrStatus.Message = fmt.Sprintf("plugin %q has no shadow to compare with: name its program in spec.shadow", name)
		return nil, none
	}
	if err != nil {
		return nil, operated(name, err)
	}
	out := &v1alpha1.PluginComparison{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Active: c.Active, Shadow: c.Shadow, Since: apiTime(c.Since),
		Same: c.Same, Different: c.Different, ActiveOnly: c.ActiveOnly, ShadowOnly: c.ShadowOnly, Dropped: c.Dropped,
		Message: o.s.shadowMessage(name),
	}
	for _, d := range c.Differences {
		out.Differences = append(out.Differences, v1alpha1.PluginDifference{
			Key: d.Key, Subject: d.Subject, Active: d.Active, ActiveReason: d.ActiveReason, Shadow: d.Shadow, ShadowReason: d.ShadowReason,
			Time: apiTime(d.Time),
		})
	}
	return out, nil
}

// shadowMessage says what keeps decisions from being compared.
func (s *server) shadowMessage(name string) string {
	st, ok := s.host.Status(name)
	if !ok {
		return ""
	}
	if st.Shadow.Phase != pluginhost.PhaseRunning {
		text := "the shadow is " + string(st.Shadow.Phase)
		if st.Shadow.Message != "" {
			text += ": " + st.Shadow.Message
		}
		return text
	}
	return s.sync.reviews.ShadowMessage(name)
}
