// Package authentication describes the reviews of the group
// authentication.k8s.io/v1: who a token belongs to, and who one is oneself.
package authentication

import (
	"context"
	"errors"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{tokenReviews, selfSubjectReviews}

var version = authenticationv1.SchemeGroupVersion

var tokenReviews = &resource.Review{
	GroupVersion: version, Plural: "tokenreviews", Singular: "tokenreview",
	New:    func() runtime.Object { return &authenticationv1.TokenReview{} },
	Served: func(env *resource.Env) bool { return env.Authenticator != nil },
	Answer: reviewToken,
}

func reviewToken(ctx context.Context, env *resource.Env, obj runtime.Object) (runtime.Object, error) {
	review, ok := obj.(*authenticationv1.TokenReview)
	if !ok {
		return nil, apierrors.NewBadRequest("not a TokenReview")
	}
	if review.Namespace != "" {
		return nil, apierrors.NewBadRequest("namespace is not allowed on this type: " + review.Namespace)
	}
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	audiences := review.Spec.Audiences
	if len(audiences) == 0 {
		if own, ok := authenticator.AudiencesFrom(ctx); ok {
			audiences = own
		}
	}
	if len(audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, audiences)
	}
	response, ok, err := env.Authenticator.AuthenticateToken(ctx, review.Spec.Token)
	if !ok && err == nil {
		err = errors.New("invalid bearer token")
	}
	review.Status = authenticationv1.TokenReviewStatus{Authenticated: ok && response != nil && err == nil}
	if err != nil {
		review.Status.Error = err.Error()
	}
	if !review.Status.Authenticated {
		return review, nil
	}
	if len(audiences) > 0 && len(authenticator.Audiences(audiences).Intersect(response.Audiences)) == 0 && len(response.Audiences) > 0 {
		review.Status.Authenticated = false
		return review, nil
	}
	review.Status.User = info(response.User)
	review.Status.Audiences = response.Audiences
	return review, nil
}

var selfSubjectReviews = &resource.Review{
	GroupVersion: version, Plural: "selfsubjectreviews", Singular: "selfsubjectreview",
	New: func() runtime.Object { return &authenticationv1.SelfSubjectReview{} },
	Answer: func(ctx context.Context, _ *resource.Env, _ runtime.Object) (runtime.Object, error) {
		u, ok := genericapirequest.UserFrom(ctx)
		if !ok {
			return nil, apierrors.NewBadRequest("no user present on request")
		}
		return &authenticationv1.SelfSubjectReview{
			ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
			Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: info(u)},
		}, nil
	},
}

func info(u user.Info) authenticationv1.UserInfo {
	i := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if i.Extra == nil {
			i.Extra = map[string]authenticationv1.ExtraValue{}
		}
		i.Extra[k] = v
	}
	return i
}
