// Package exec runs a program that knows nothing of Keelson as a plugin, under the name
// and kind of the Plugin object: containerd as the runtime, CoreDNS as the DNS, an
// unmodified kube-scheduler.
//
// In go the object's configuration (command, arguments, files to write, a health check)
// and what the kernel gives a plugin: certificates, addresses, folders. The program gets
// them as a kubeconfig, as variables in its arguments and as files; no shell is between.
// Its output goes line by line to the plugin's log, its end is the end of the plugin,
// with its last lines, and the kernel starts both again.
//
// server.go is the plugin's life, program.go one process, check.go its health, files.go
// what it finds on disk, expand.go the variables.
//
// Goroutines: one that starts the program and waits for it, on a thread of its own since
// the parent-death signal is tied to the thread that forked; one for each of its two
// outputs; the health check. All end with Start. The program is in the plugin's cgroup
// and gets SIGKILL if the plugin dies.
package exec
