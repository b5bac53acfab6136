// Package kit is what plugin authors import: it makes a Go program a Keelson plugin.
//
// A plugin is a value of type Plugin and a main of one call:
//
//	func main() { kit.Main(dns.Plugin) }
//
// Main does the handshake with the kernel, serves the base contract (package
// keelson.dev/keelson/proto/plugin/v1) over mutual TLS, logs, collects metrics and
// handles signals. The plugin itself supplies New, which checks its configuration
// and allocates, and a Runner, whose Start does the work until its context ends.
//
// The order of calls is: New (for each Configure), Start (for Activate), the end of
// Start's context (for Deactivate, Stop, SIGTERM, and when the kernel is gone). Each
// activation after the first gets a Runner of its own from New, so a Runner is started
// at most once. An error or a panic of Start ends the process with status 1 and the
// kernel starts a new one: dying is the way to say "I cannot go on".
//
// A built-in plugin that says InProcess may run within the kernel's process as well: Embed
// takes the place of Main, and all else is the same.
//
// A plugin of a kind that decides can be tried beside the active one: its Runner is a
// Shadower, whose Shadow takes the place of Start and changes nothing, and it tells what it
// decides by Env.Decisions, which costs nothing while nobody listens and never waits.
//
// Goroutines: one runs Start while active, one watches for signals, one reads the pipe
// that tells of the kernel's end, one serves metrics; go-plugin serves gRPC. All end
// with the process. Nothing here keeps state on disk.
package kit
