// Package podspec holds the defaults and the validation of pod specs and pod
// templates, as the Kubernetes API documents them. The pods of the core group
// use it, and so does every kind with a pod template.
//
// All functions are pure. Defaults are idempotent. Validation expects defaults
// to have been applied, and speaks in Kubernetes' words.
package podspec
