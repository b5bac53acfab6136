// Package authenticationv1 is the contract between the kernel's API server (the caller) and
// a plugin of kind authentication, which serves it on /run/keelson/authentication-NAME.sock
// (mode 0600, plain gRPC: whoever can open it is root; ConfigureRequest.listen names it).
// Several may be active, each at a socket of its own. It is the gRPC form of
// authentication.k8s.io/v1 TokenReview.
//
// # The order of calls
//
// There is one method. Plugins are asked, in the order of their names, about bearer tokens
// that nothing before them knows: the token file, service accounts, bootstrap tokens, JWT
// issuers and the webhook come first; client certificates are not their matter. The first
// that says authenticated decides. The kernel never stores a token: it remembers answers
// under a keyed hash, for as long as the plugin allows.
//
// # What may be repeated
//
// Everything, at any time, by several callers at once. Same tokens that come at the same
// time are asked about once. After a restart or a swap of the plugin nothing is remembered
// of what it said before.
//
// # What a failure means
//
//   - A gRPC error or no answer within 5 seconds is an error of this authenticator alone:
//     the next one is asked, and if none knows the token the request is refused with 401.
//     It never lets anybody in.
//   - A user or group that begins with "system:" is such an error, too: the kernel's own
//     names cannot be had from a plugin.
//   - A plugin that did not answer is not waited for again: until it answers a probe, once
//     a second, every call counts as failed at once.
//   - authenticated=false is no failure.
//
// # Versions
//
// This is version 1; a message gets fields, never loses any. What a plugin does not know it
// ignores. A change that cannot be made so is a new package, authentication.v2, served
// beside this one on the same socket.
//
// Package authenticationtest is the suite that every authentication plugin passes.
package authenticationv1
