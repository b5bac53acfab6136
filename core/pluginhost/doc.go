// Package pluginhost launches plugin processes and keeps them running.
//
// The kernel says what should run (Host.Ensure, Host.Remove) and the host makes it so:
// it checks the program, starts it through hashicorp/go-plugin, asks what it is
// (Describe), has that accepted (Config.Accept: the kernel grants its RBAC rules there),
// checks its configuration against its schema, configures and activates it, and follows
// its Health stream. All of it can be seen in Status and, by Config.OnStatus, in the
// status of the Plugin object.
//
// # Swaps
//
// A changed spec is swapped: its process, the candidate, is started and configured beside
// the active one, which is deactivated when the candidate is at STANDBY; the candidate is
// activated then. What it replaced is kept for Spec.Watch and comes back if the new one is
// bad. A candidate that is no good before that is refused, and changes nothing.
// docs/swap.md has the whole of it, supervisor.go and swap.go the code.
//
// # Hand-overs
//
// A host whose context ends with ErrHandOver leaves its processes running, and a State, from
// which the next host takes them over: in this process, or in the program that State.Exec
// puts in its place. handover.go has the one half, adopt.go the other.
//
// # Restarts
//
// A plugin that ends, hangs (no report for 30 seconds) or says FAILED is started again:
// at once the first time, then after 0.1 s and twice as long each time up to 30 s,
// until it has run for 60 s. What a restart cannot mend (an unknown built-in, a missing
// or changed program, a configuration that is refused) is phase Failed: nothing is
// started until the Plugin object changes or Restart is called; a program is looked for
// every 10 s.
//
// # Security
//
// A plugin process inherits no environment but a short list, no standard input, and two
// secrets over one socket: its TLS identity. The kernel calls it over a Unix socket in a
// folder of mode 0700 with mutual TLS from the kernel's own CA. go-plugin's AutoMTLS and
// SecureConfig are not used: both exclude reattaching to a running process, which a
// kernel upgrade under running plugins needs. So the checksum is verified here. Built-in
// plugins go exactly the same way; only the program's path differs.
//
// # Processes
//
// A plugin dies with the host: parent-death signal (sent when the thread that started
// it ends, so one locked thread starts all of them), and the end of the handover socket as
// a second way. What is left over all the same is found at the next start by process number,
// start time and instance id (and by cgroup) and killed. Each process has a cgroup of its
// own, /keelson/plugins/NAME.INSTANCE, on v2 and on v1 hierarchies. A process that has left its
// plugin's cgroup in any hierarchy (conmon does) is never touched.
//
// # Goroutines
//
// Run owns one goroutine for each plugin, one for each of its processes, the starting
// thread, and what go-plugin starts;
// all have ended when Run returns. Every method may be called from any goroutine.
package pluginhost
