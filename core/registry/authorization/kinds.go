// Package authorization describes the reviews of the group
// authorization.k8s.io/v1: what a user may do. The server's own authorizer answers.
package authorization

import (
	"context"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{
	&resource.Review{GroupVersion: version, Plural: "subjectaccessreviews", Singular: "subjectaccessreview", Served: served,
		New: func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }, Answer: subject},
	&resource.Review{GroupVersion: version, Plural: "selfsubjectaccessreviews", Singular: "selfsubjectaccessreview", Served: served,
		New: func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }, Answer: self},
	&resource.Review{GroupVersion: version, Plural: "localsubjectaccessreviews", Singular: "localsubjectaccessreview", Served: served, Namespaced: true,
		New: func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }, Answer: local},
	&resource.Review{GroupVersion: version, Plural: "selfsubjectrulesreviews", Singular: "selfsubjectrulesreview", Served: served,
		New: func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }, Answer: rules},
}

var version = authorizationv1.SchemeGroupVersion

func served(env *resource.Env) bool { return env.Authorizer != nil }

func subject(ctx context.Context, env *resource.Env, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.SubjectAccessReview)
	errs := validate(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	errs = append(errs, validateSubject(r.Spec)...)
	errs = append(errs, noMetadata(r.ObjectMeta, "must be empty")...)
	if len(errs) > 0 {
		return nil, invalid(errs)
	}
	r.Status = ask(ctx, env, subjectOf(r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, nil
}

func local(ctx context.Context, env *resource.Env, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.LocalSubjectAccessReview)
	errs := validateSubject(r.Spec)
	namespace := genericapirequest.NamespaceValue(ctx)
	bare := r.ObjectMeta
	bare.Namespace = ""
	errs = append(errs, noMetadata(bare, "must be empty except for namespace")...)
	spec := field.NewPath("spec")
	switch a := r.Spec.ResourceAttributes; {
	case a == nil || r.Spec.NonResourceAttributes != nil:
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	case a.Namespace != namespace:
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if len(errs) > 0 {
		return nil, invalid(errs)
	}
	r.Status = ask(ctx, env, subjectOf(r.Spec), r.Spec.ResourceAttributes, nil)
	return r, nil
}

func self(ctx context.Context, env *resource.Env, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.SelfSubjectAccessReview)
	errs := validate(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	if errs = append(errs, noMetadata(r.ObjectMeta, "must be empty")...); len(errs) > 0 {
		return nil, invalid(errs)
	}
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	r.Status = ask(ctx, env, u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
	return r, nil
}

func rules(ctx context.Context, env *resource.Env, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.SelfSubjectRulesReview)
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	if r.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	resolver, ok := env.Authorizer.(authorizer.RuleResolver)
	if !ok {
		r.Status = authorizationv1.SubjectRulesReviewStatus{Incomplete: true, EvaluationError: "the server's authorizer cannot list rules",
			ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
		return r, nil
	}
	resources, others, incomplete, err := resolver.RulesFor(ctx, u, r.Spec.Namespace)
	r = &authorizationv1.SelfSubjectRulesReview{} // upstream's answer does not repeat the question
	r.Status = authorizationv1.SubjectRulesReviewStatus{Incomplete: incomplete,
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
	if err != nil {
		r.Status.EvaluationError = err.Error()
	}
	for _, rule := range resources {
		r.Status.ResourceRules = append(r.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(),
			Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames()})
	}
	for _, rule := range others {
		r.Status.NonResourceRules = append(r.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()})
	}
	return r, nil
}

func ask(ctx context.Context, env *resource.Env, u user.Info, res *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	a := authorizer.AttributesRecord{User: u}
	if res != nil {
		a.Verb, a.Namespace, a.APIGroup, a.APIVersion = res.Verb, res.Namespace, res.Group, res.Version
		a.Resource, a.Subresource, a.Name, a.ResourceRequest = res.Resource, res.Subresource, res.Name, true
		if a.APIVersion == "" {
			a.APIVersion = "*"
		}
		selectors(res, &a)
	} else {
		a.Verb, a.Path = strings.ToLower(other.Verb), other.Path
	}
	decision, reason, err := env.Authorizer.Authorize(ctx, a)
	status := authorizationv1.SubjectAccessReviewStatus{Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason}
	status.EvaluationError = evaluationError(err, &a)
	return status
}

// evaluationError tells what went wrong, and which selectors do not count because nobody understands them.
func evaluationError(err error, a *authorizer.AttributesRecord) string {
	var all []string
	if err != nil {
		all = append(all, err.Error())
	}
	ignored := func(name string, understood int, err error) {
		switch {
		case err != nil && understood > 0:
			all = append(all, "spec.resourceAttributes."+name+" partially ignored due to parse error")
		case err != nil:
			all = append(all, "spec.resourceAttributes."+name+" ignored due to parse error")
		}
	}
	ignored("fieldSelector", len(a.FieldSelectorRequirements), a.FieldSelectorParsingErr)
	ignored("labelSelector", len(a.LabelSelectorRequirements), a.LabelSelectorParsingErr)
	return strings.Join(all, "; ")
}

// selectors puts into a what the selectors of a review ask for. A requirement
// that is not understood narrows nothing, and so is left out.
func selectors(res *authorizationv1.ResourceAttributes, a *authorizer.AttributesRecord) {
	if f := res.FieldSelector; f != nil {
		if f.RawSelector != "" {
			if parsed, err := fields.ParseSelector(f.RawSelector); err != nil {
				a.FieldSelectorParsingErr = err
			} else {
				a.FieldSelectorRequirements = parsed.Requirements()
			}
		}
		for _, r := range f.Requirements {
			switch {
			case r.Operator == metav1.FieldSelectorOpIn && len(r.Values) == 1:
				a.FieldSelectorRequirements = append(a.FieldSelectorRequirements, fields.Requirement{Operator: selection.Equals, Field: r.Key, Value: r.Values[0]})
			case r.Operator == metav1.FieldSelectorOpNotIn && len(r.Values) == 1:
				a.FieldSelectorRequirements = append(a.FieldSelectorRequirements, fields.Requirement{Operator: selection.NotEquals, Field: r.Key, Value: r.Values[0]})
			default:
				a.FieldSelectorParsingErr = fmt.Errorf("field requirement %s %s %v is not supported", r.Key, r.Operator, r.Values)
			}
		}
	}
	if l := res.LabelSelector; l != nil {
		if l.RawSelector != "" {
			parsed, err := labels.Parse(l.RawSelector)
			if err != nil {
				a.LabelSelectorParsingErr = err
			} else {
				a.LabelSelectorRequirements, _ = parsed.Requirements()
			}
		}
		if len(l.Requirements) > 0 {
			parsed, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: l.Requirements})
			if err != nil {
				a.LabelSelectorParsingErr = err
			} else {
				a.LabelSelectorRequirements, _ = parsed.Requirements()
			}
		}
	}
}

func subjectOf(s authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: s.User, UID: s.UID, Groups: s.Groups}
	for k, v := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[strings.ToLower(k)] = v
	}
	return u
}
