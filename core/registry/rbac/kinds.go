// Package rbac describes the kinds of the group rbac.authorization.k8s.io/v1.
//
// Nobody may give rights away that they do not have: who writes a role needs
// all of its rights, or the verb escalate; who writes a binding needs all
// rights of its role, or the verb bind. The server's authorizer is asked.
package rbac

import (
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{roles, clusterRoles, roleBindings, clusterRoleBindings}

var version = rbacv1.SchemeGroupVersion

var createdAt = resource.Column("Created At", "date", "When it was created.")

const dateLayout = "2006-01-02T15:04:05Z"

var roles = &resource.Definition[*rbacv1.Role]{
	GroupVersion: version, Kind: "Role", Plural: "roles", Singular: "role", CreateOnUpdate: true,
	New:      func() *rbacv1.Role { return &rbacv1.Role{} },
	NewList:  func() runtime.Object { return &rbacv1.RoleList{} },
	Name:     pathName,
	Validate: func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) },
	Columns:  []metav1.TableColumnDefinition{resource.NameColumn, createdAt},
	Row:      func(r *rbacv1.Role) []any { return []any{r.Name, r.CreationTimestamp.UTC().Format(dateLayout)} },
	Wrap:     func(env *resource.Env, s *resource.Store) rest.Storage { return &guarded{s, guard{env}} },
}

var clusterRoles = &resource.Definition[*rbacv1.ClusterRole]{
	GroupVersion: version, Kind: "ClusterRole", Plural: "clusterroles", Singular: "clusterrole", CreateOnUpdate: true, ClusterScoped: true,
	New:     func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
	NewList: func() runtime.Object { return &rbacv1.ClusterRoleList{} },
	Name:    pathName,
	Validate: func(r *rbacv1.ClusterRole) field.ErrorList {
		errs := validateRules(r.Rules, false)
		if a := r.AggregationRule; a != nil {
			at := field.NewPath("aggregationRule", "clusterRoleSelectors")
			if len(a.ClusterRoleSelectors) == 0 {
				errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
			}
			for i := range a.ClusterRoleSelectors {
				faults := metav1validation.ValidateLabelSelector(&a.ClusterRoleSelectors[i], metav1validation.LabelSelectorValidationOptions{}, at.Index(i))
				if errs = append(errs, faults...); len(faults) > 0 {
					errs = append(errs, field.Invalid(at.Index(i), a.ClusterRoleSelectors[i], "invalid label selector."))
				}
			}
		}
		return errs
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, createdAt},
	Row:     func(r *rbacv1.ClusterRole) []any { return []any{r.Name, r.CreationTimestamp.UTC().Format(dateLayout)} },
	Wrap:    func(env *resource.Env, s *resource.Store) rest.Storage { return &guarded{s, guard{env}} },
}

var roleBindings = &resource.Definition[*rbacv1.RoleBinding]{
	GroupVersion: version, Kind: "RoleBinding", Plural: "rolebindings", Singular: "rolebinding", CreateOnUpdate: true,
	New:            func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
	NewList:        func() runtime.Object { return &rbacv1.RoleBindingList{} },
	Name:           pathName,
	Default:        func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate:       func(b *rbacv1.RoleBinding) field.ErrorList { return validateBinding(b.RoleRef, b.Subjects, true) },
	ValidateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList { return sameRole(b.RoleRef, old.RoleRef) },
	Columns:        bindingColumns,
	Row: func(b *rbacv1.RoleBinding) []any {
		return bindingRow(b.Name, resource.Age(b), b.RoleRef, b.Subjects)
	},
	Wrap: func(env *resource.Env, s *resource.Store) rest.Storage { return &guarded{s, guard{env}} },
}

var clusterRoleBindings = &resource.Definition[*rbacv1.ClusterRoleBinding]{
	GroupVersion: version, Kind: "ClusterRoleBinding", Plural: "clusterrolebindings", Singular: "clusterrolebinding", CreateOnUpdate: true, ClusterScoped: true,
	New:     func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
	NewList: func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
	Name:    pathName,
	Default: func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate: func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
		return validateBinding(b.RoleRef, b.Subjects, false)
	},
	ValidateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList { return sameRole(b.RoleRef, old.RoleRef) },
	Columns:        bindingColumns,
	Row: func(b *rbacv1.ClusterRoleBinding) []any {
		return bindingRow(b.Name, resource.Age(b), b.RoleRef, b.Subjects)
	},
	Wrap: func(env *resource.Env, s *resource.Store) rest.Storage { return &guarded{s, guard{env}} },
}

// pathName lets names have all characters that a path segment may, as system:node.
func pathName(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, r := range rules {
		at := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			if namespaced {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs
}

// defaultBinding fills in the API groups of the role and the subjects.
func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		if s := &subjects[i]; s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

func validateBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	switch {
	case ref.Kind == "ClusterRole", ref.Kind == "Role" && namespaced:
	case namespaced:
		errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, []string{"Role", "ClusterRole"}))
	default:
		errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, []string{"ClusterRole"}))
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		for _, msg := range pathName(ref.Name, false) {
			errs = append(errs, field.Invalid(at.Child("name"), ref.Name, msg))
		}
	}
	for i, s := range subjects {
		errs = append(errs, validateSubject(s, namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s rbacv1.Subject, namespaced bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.APIGroup != "" {
			errs = append(errs, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{""}))
		}
		if !namespaced && s.Namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		if s.APIGroup != rbacv1.GroupName {
			errs = append(errs, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName}))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}

func sameRole(now, was rbacv1.RoleRef) field.ErrorList {
	if now != was {
		return field.ErrorList{field.Invalid(field.NewPath("roleRef"), now, "cannot change roleRef")}
	}
	return nil
}

var bindingColumns = []metav1.TableColumnDefinition{
	resource.NameColumn,
	resource.Column("Role", "string", "The role that is given."),
	resource.AgeColumn,
	resource.Wide("Users", "string", "Which users have it."),
	resource.Wide("Groups", "string", "Which groups have it."),
	resource.Wide("ServiceAccounts", "string", "Which service accounts have it."),
}

func bindingRow(name, age string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{name, fmt.Sprintf("%s/%s", ref.Kind, ref.Name), age,
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}
