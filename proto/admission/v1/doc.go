// Package admissionv1 is the contract between the kernel's API server (the caller) and a
// plugin of kind admission, which serves it on /run/keelson/admission-NAME.sock (mode 0600,
// plain gRPC: whoever can open it is root; ConfigureRequest.listen names it). Several
// plugins of the kind may be active, each at a socket of its own. It is the gRPC form of
// admission.k8s.io/v1 AdmissionReview, with what a webhook configuration says coming from
// the plugin itself. The rule is that of a webhook: a plugin decides, and the API is not
// asked how.
//
// # The order of calls
//
//	Hooks                 when the plugin is ready, after each of its starts
//	Review, Review, ...   for each request to the API that a hook matches
//
// From the first answer to Hooks on the hooks are in force, through restarts of the plugin
// and of the kernel, until the Plugin object is disabled or deleted; a new answer replaces
// the one before it. An answer with a hook that is not valid is refused whole, the earlier
// one stays, and the Plugin object is not Ready: its condition says why.
//
// Of one request to the API the built-in admission plugins come first, then mutating
// policies and webhooks, then mutating hooks: plugins in the order of their names, the
// hooks of one in theirs, one after the other, each sees what those before it made. If one
// changed the object, the built-in plugins and webhooks with reinvocationPolicy IfNeeded
// see it once more; hooks do not. Validating hooks come after validating policies and
// webhooks and before quota, all at once; the first refusal, in their order, is the answer.
//
// Not asked about are: requests of the kernel itself (system:apiserver), objects of the
// group keelson.dev and of admission's own configuration, access and token reviews, and to
// a plugin the requests of its own identity, system:plugin:NAME. So neither the start of a
// cluster nor the way to disable a plugin depends on one.
//
// # What may be repeated
//
// A Review may come twice for one request to the API (a conflict is retried), and the
// request may fail after it: a plugin that keeps count of objects watches them. Calls for
// different requests overlap. A mutating hook has to leave an object alone that it has
// changed before.
//
// # What a failure means
//
//   - A gRPC error, an answer out of time, a patch that cannot be applied, a patch from a
//     validating hook: the hook has not decided. FAIL refuses the request with 500
//     InternalError, IGNORE lets it pass and notes failed-open in the audit log.
//   - A plugin that did not answer in time, or whose process is gone, is not waited for
//     again: until it answers a probe, once a second, every call counts as failed at once.
//   - While a plugin is swapped, calls wait in the queue of its socket.
//   - allowed=false is a decision: 403 Forbidden with the message, unless status says
//     otherwise.
//
// # Versions
//
// This is version 1; a message gets fields, never loses any. What a plugin does not know it
// ignores; what it leaves unset means what was so before the field was there. A change that
// cannot be made so is a new package, admission.v2, served beside this one on the same socket.
//
// Package admissiontest is the suite that every admission plugin passes.
package admissionv1
