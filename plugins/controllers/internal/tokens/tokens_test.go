package tokens

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestJudge(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	tracked := now.Add(-1000 * day)
	date := func(days int) string { return now.Add(-time.Duration(days) * day).Format(time.DateOnly) }
	for _, tt := range []struct {
		name          string
		tracked       time.Time
		used, invalid string
		want          verdict
	}{
		{"used lately", tracked, date(10), "", keep},
		{"not used for long", tracked, date(101), "", mark},
		{"never used", tracked, "", "", mark},
		{"never used, and nobody knows for long", now.Add(-50 * day), "", "", keep},
		{"marked lately", tracked, date(500), date(10), keep},
		{"marked long ago", tracked, date(500), date(101), drop},
		{"used since it was marked", tracked, date(5), date(101), keep},
		{"marked with nonsense", tracked, date(500), "yesterday", mark},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{labelLastUsed: tt.used, labelInvalidSince: tt.invalid}}}
			if got := judge(s, tt.tracked, 100*day, now); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestStale(t *testing.T) {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.ServiceAccountUIDKey: "1"}}}
	same := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{UID: "1"}}
	other := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{UID: "2"}}
	if !stale(s, nil) || stale(s, same) || !stale(s, other) || stale(&corev1.Secret{}, other) {
		t.Error("a secret is for the account with its UID")
	}
}
