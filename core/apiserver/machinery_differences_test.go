package apiserver

import "maps"

// Why the machinery answers otherwise than upstream's.
const (
	keepsManagers = "where field managers cannot be worked out, 1.37 keeps those it had and 1.36 drops them; this is one of such updates, and what follows it"
	ofStore       = "the store says it, in the words of upstream's without its watch cache"
)

func init() {
	maps.Copy(deliberate, map[string]string{
		"crd/apply":                       keepsManagers,
		"crd/apply beta":                  keepsManagers,
		"crd/apply shared":                keepsManagers,
		"crd/patch merge unknown strict":  keepsManagers,
		"crd/status":                      keepsManagers,
		"expired/watch bookmarks from 1":  ofStore,
		"expired/watch from 1":            ofStore,
		"expired/watch table from 1":      ofStore,
		"headers/resources of admission":  newer,
		"headers/resources of extensions": "our CustomResourceDefinitions are stored as v1, and discovery says so",
	})
}
