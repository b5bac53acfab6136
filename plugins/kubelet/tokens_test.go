package kubelet

import (
	"errors"
	"fmt"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"keelson.dev/keelson/plugins/kit/kittest"
)

// TestTokenRotation: a token is kept until most of its life is over, then asked for anew; while that is refused the old one serves as long as
// it is good.
func TestTokenRotation(t *testing.T) {
	api := kittest.Clientset()
	var asked []authenticationv1.TokenRequestSpec
	var refuse error
	api.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		if refuse != nil {
			return true, nil, refuse
		}
		spec := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).Spec
		asked = append(asked, spec)
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: fmt.Sprint("token-", len(asked)),
			ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Duration(*spec.ExpirationSeconds) * time.Second))}}, nil
	})
	tokens := newTokens(api)
	pod := simplePod("p")
	seconds := int64(1000)
	src := &corev1.ServiceAccountTokenProjection{Audience: "vault", ExpirationSeconds: &seconds}
	get := func(want string) time.Time {
		t.Helper()
		got, refresh, err := tokens.get(t.Context(), pod, src)
		if err != nil || got != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
		return refresh
	}
	age := func(refresh, expires time.Duration) {
		for k, item := range tokens.items {
			item.refresh, item.expires = time.Now().Add(refresh), time.Now().Add(expires)
			tokens.items[k] = item
		}
	}
	if left := time.Until(get("token-1")); left < 600*time.Second || left > 900*time.Second {
		t.Errorf("a token of 1000 s is asked for again after %s", left)
	}
	if ref := asked[0].BoundObjectRef; ref.Kind != "Pod" || ref.Name != "p" || ref.UID != pod.UID || asked[0].Audiences[0] != "vault" {
		t.Errorf("asked for %+v", asked[0])
	}
	get("token-1")
	age(-time.Second, 300*time.Second)
	get("token-2")
	refuse = errors.New("the API is away")
	age(-time.Second, 300*time.Second)
	if again := time.Until(get("token-2")); again > 2*time.Minute {
		t.Errorf("a refused token is asked for again only after %s", again)
	}
	age(-2*time.Second, -time.Second)
	if got, _, err := tokens.get(t.Context(), pod, src); err == nil {
		t.Errorf("an expired token was handed out: %q", got)
	}
	refuse = nil
	get("token-3")
	tokens.forget(pod.UID)
	if len(tokens.items) != 0 {
		t.Error("a pod's tokens outlive it")
	}
	other := *src
	other.Audience = ""
	if _, _, err := tokens.get(t.Context(), pod, &other); err != nil || len(asked[len(asked)-1].Audiences) != 0 {
		t.Errorf("the API's own audience: asked for %+v, %v", asked[len(asked)-1], err)
	}
}
