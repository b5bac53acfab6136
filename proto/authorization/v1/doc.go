// Package authorizationv1 is the contract between the kernel's API server (the caller) and
// a plugin of kind authorization, which serves it on /run/keelson/authorization-NAME.sock
// (mode 0600, plain gRPC: whoever can open it is root; ConfigureRequest.listen names it).
// Several may be active, each at a socket of its own. It is the gRPC form of
// authorization.k8s.io/v1 SubjectAccessReview, in batches.
//
// # The order of calls
//
// There is one method. When plugins are asked is the operator's choice: the place of the
// mode Plugin in --authorization-mode (Node,RBAC,Plugin by default), or of type Plugin in
// the file of --authorization-config. After RBAC a plugin can allow more than RBAC does;
// before it, it can refuse what RBAC allows, and is asked about every request. Plugins are
// asked in the order of their names; the first that allows or denies decides. Members of
// system:masters are never asked about, so nobody locks himself out, nor is the kernel.
//
// # What may be repeated
//
// Everything, at any time, by several callers at once. Questions that come while the kernel
// waits for answers go together in one batch. The same question may be in a batch twice.
// After a restart or a swap of the plugin nothing is remembered of what it said before.
//
// # What a failure means
//
//   - A gRPC error, a wrong number of decisions, or no answer within 3 seconds is no
//     opinion: the next authorizer decides, and if none allows it the request is refused
//     with 500, as when a webhook fails. It is never an allow.
//   - A plugin with the capability "deny-on-failure" (CapabilityDenyOnFailure, in Describe)
//     wants such requests denied instead: one that stands before RBAC to refuse things.
//     It holds from the first time that it was ready until it is disabled or deleted.
//   - A plugin that did not answer is not waited for again: until it answers a probe (an
//     empty batch), once a second, every call counts as failed at once.
//
// # Versions
//
// This is version 1; a message gets fields, never loses any. What a plugin does not know it
// ignores. A change that cannot be made so is a new package, authorization.v2, served
// beside this one on the same socket.
//
// Package authorizationtest is the suite that every authorization plugin passes.
package authorizationv1

// CapabilityDenyOnFailure is what a plugin names in Describe's capabilities if a question
// that it does not answer is to be denied.
const CapabilityDenyOnFailure = "deny-on-failure"

// MaxBatch is the most questions in one request.
const MaxBatch = 1000
