// Package layering tests that imports go one way (DESIGN.md 3): cli, plugins and core
// import proto; plugins import plugins/kit, and never core or another plugin; core imports
// neither plugins nor cli; and nothing depends on k8s.io/kubernetes.
package layering
