package pluginv1

import _ "embed" // plugin.proto, for authors in other languages

// Source is plugin.proto as it is in this folder.
//
//go:embed plugin.proto
var Source string
