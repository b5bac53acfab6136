package apiserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/core/auth"
)

// TestLegacyTokenUse: what the use of a secret's token leaves behind, and that a marked
// one is refused. The answers are those of kube-apiserver 1.36.3.
func TestLegacyTokenUse(t *testing.T) {
	h := start(t)
	secrets, accounts := h.admin.CoreV1().Secrets("default"), h.admin.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: "old"}, Secrets: []corev1.ObjectReference{{Name: "generated"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	const generated = "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens."
	for _, tc := range []struct {
		name, label, invalid string
		warns                []string
		refused, keeps       bool
	}{
		{name: "manual"},
		{name: "generated", warns: []string{generated}},
		{name: "yesterday", label: day(time.Now().AddDate(0, 0, -1))},
		{name: "another-clock", label: day(time.Now().AddDate(0, 0, 1)), keeps: true},
		{name: "far", label: "2199-01-01"},
		{name: "garbage", label: "garbage"},
		{name: "invalid", invalid: "2024-01-01", refused: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			labels := map[string]string{auth.LabelInvalidSince: tc.invalid}
			if tc.label != "" {
				labels[auth.LabelLastUsed] = tc.label
			}
			s, err := secrets.Create(t.Context(), &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: tc.name, Labels: labels, Annotations: map[string]string{corev1.ServiceAccountNameKey: "old"}},
				Type:       corev1.SecretTypeServiceAccountToken,
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			c, told := h.with(string(s.Data[corev1.ServiceAccountTokenKey])), &warnings{}
			c.WarningHandler = told
			who, err := whoAmI(t, c)
			switch {
			case tc.refused && !apierrors.IsUnauthorized(err):
				t.Errorf("got %v, want Unauthorized", err)
			case !tc.refused && (err != nil || who.Username != "system:serviceaccount:default:old"):
				t.Errorf("got %q, %v", who.Username, err)
			}
			if !slices.Equal(told.all, tc.warns) {
				t.Errorf("was told %q, want %q", told.all, tc.warns)
			}
			// The label is written before the answer.
			if s, err = secrets.Get(t.Context(), tc.name, metav1.GetOptions{}); err != nil {
				t.Fatal(err)
			}
			want := []string{day(before), day(time.Now())}
			if tc.keeps {
				want = []string{tc.label}
			}
			if got := s.Labels[auth.LabelLastUsed]; !slices.Contains(want, got) {
				t.Errorf("is labelled %q, want one of %q", got, want)
			}
			if !tc.refused {
				return
			}
			r, err := h.admin.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
				Spec: authenticationv1.TokenReviewSpec{Token: c.BearerToken},
			}, metav1.CreateOptions{})
			if err != nil || r.Status.Authenticated || !strings.Contains(r.Status.Error, "the token in secret default/invalid for service account default/old has been marked invalid. ") {
				t.Errorf("the review says %+v, %v", r.Status, err)
			}
		})
	}
	metrics, err := h.admin.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"legacy_tokens_total", "legacy_manual_token_uses_total", "legacy_auto_token_uses_total", "invalid_legacy_auto_token_uses_total"} {
		if line := "\nserviceaccount_" + name + " "; !strings.Contains(string(metrics), line) || strings.Contains(string(metrics), line+"0\n") {
			t.Errorf("no %s was counted", name)
		}
	}
}

// TestTokenTrackingDate: the config map is there, is made again, and a date in it stays.
func TestTokenTrackingDate(t *testing.T) {
	h := start(t)
	configMaps := h.admin.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	since := func() (string, types.UID) {
		cm, err := configMaps.Get(t.Context(), trackingConfigMap, metav1.GetOptions{})
		if err != nil {
			return err.Error(), ""
		}
		return cm.Data["since"], cm.UID
	}
	write := func(value string) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"data":{"since":%s,"x":"y"}}`, value)
		if _, err := configMaps.Patch(t.Context(), trackingConfigMap, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now().UTC()
	isToday := func() bool {
		got, _ := since()
		return got == begin.Format(time.DateOnly) || got == time.Now().UTC().Format(time.DateOnly)
	}
	eventually(t, "the config map is there", isToday)
	for _, bad := range []string{`"garbage"`, "null", `"2024-02-30"`} {
		write(bad)
		eventually(t, bad+" is put right", isToday)
	}
	_, old := since()
	if err := configMaps.Delete(t.Context(), trackingConfigMap, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is made again", func() bool { _, uid := since(); return isToday() && uid != old && uid != "" })
	write(`"2024-05-05"`)
	if err := h.ensureTokenTracking(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _ := since(); got != "2024-05-05" {
		t.Errorf("a date was changed to %s", got)
	}
}
