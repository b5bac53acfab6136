// Package review asks plugins of the kinds admission, authentication and authorization for
// the API server: the kernel's side of the contracts in proto/admission/v1,
// proto/authentication/v1 and proto/authorization/v1, which say what is promised.
//
// A Set has the plugins. The kernel tells it what it wants to run (Want, Remove) and what
// runs (Running, Down); the API server has from it an authenticator, an authorizer and two
// admission plugins. With no plugin each of those is one check of an empty list.
//
// # Connections
//
// Each plugin has one gRPC connection to its Unix socket, made when it first runs and kept.
// A call waits, within its time, for a plugin that is just starting or being swapped. One
// that did not answer in time, or that the kernel knows to be down, is not waited for: its
// calls fail at once until a probe, once a second, is answered. No request pays for a
// plugin that is known not to answer.
//
// # What survives
//
// What a plugin asked for (its hooks, and whether it wants requests denied that it does not
// decide on) is kept in a file for each, so that it is in force from the first request
// after a restart of the kernel, before the plugin runs.
//
// # Goroutines
//
// One for each plugin whose process is new (it fetches the hooks), one for each that does
// not answer (the probe), at most maxCalls for each authorization plugin while it is asked,
// and those of gRPC. Close ends all of them.
package review
