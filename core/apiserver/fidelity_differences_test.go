package apiserver

// deliberate names the cases ("corpus/case") that we answer otherwise than upstream, with the reason.
var deliberate = map[string]string{}
