// Package pluginv1 is the base contract between the kernel's plugin host (the caller)
// and every plugin process (the server): plugin.proto, its generated code, and the
// handshake that comes before it. docs/plugins.md tells the same to plugin authors.
//
// # The start
//
// The kernel executes the plugin with the cookie (CookieKey) in its environment and an
// inherited socket (HandoverEnv). The plugin reads one line of JSON from it (Handover: its
// TLS identity and the CA), listens on a Unix socket in the folder PLUGIN_UNIX_SOCKET_DIR,
// and writes go-plugin's one line to standard output:
//
//	1|<protocol version>|unix|<socket>|grpc|
//
// It then serves PluginService, go-plugin's own small services (health for "plugin",
// broker, stdio, controller) and nothing else there, with TLS 1.3: its own certificate,
// and of the caller it demands one of the CA with common name KernelName. Standard error
// is its log, one JSON object (log/slog's keys) or plain line for each line. The socket
// ends with the kernel; so does the plugin then.
//
// # Versions
//
// The protocol version in that line is the highest one of handshake.go that the plugin
// speaks and the kernel has named in PLUGIN_PROTOCOL_VERSIONS. A plugin that does not read
// the variable says 1. Within a version fields and methods are added only, and each side
// ignores what it does not know; a new version is made where the kernel has to know
// beforehand what a plugin can do. A kernel speaks at least two versions, so that plugins
// and kernel can be upgraded one after the other. A plugin of another version is not
// started, and status.lastError has the versions of both sides.
//
// # Sockets
//
// A port, or a Unix socket, that is to be served without a gap while the plugin is swapped
// is the kernel's: the plugin asks for it over the handover socket (SocketRequest,
// SocketAnswer) and gets a descriptor. It may ask in Configure and accepts only while it
// is active. A plugin that never asks is none the worse: it binds in Activate, closes in
// Deactivate, and its swap has the gap that this takes.
//
// # The order of calls
//
//		Describe -> Configure -> Activate -> Health ... Drain -> Stop
//		               ^             |
//		               +- Deactivate +
//
//	  - Describe first, and at any time; it has no effect.
//	  - Configure replaces an earlier one until Activate; while active it is
//	    FAILED_PRECONDITION. A configuration that is refused is INVALID_ARGUMENT, names
//	    field and value, and leaves an earlier one in force.
//	  - Activate before a Configure is FAILED_PRECONDITION; twice is as once. Likewise
//	    Deactivate. Any number of them may alternate; each activation starts afresh.
//	  - A plugin is STANDBY before its first Configure. From Configure on it may fill its
//	    caches, and reports STARTING until they are warm and STANDBY then: a swap waits for
//	    that before it deactivates the old one. Configure takes nothing that only one may
//	    have (a lock, a port, a table of the machine): another process of the plugin is
//	    active. What has to be alone is taken in Activate and given back in Deactivate.
//	  - A call that comes between Deactivate and the end of its connection is refused with
//	    UNAVAILABLE and the message Deactivated: callers repeat it. Streams that are open
//	    for others are counted in open_streams, and keep the process alive until they have
//	    ended, an hour at most.
//	  - Activate with MODE_SHADOW: as above, without effect; what is decided goes to
//	    Decisions, which is listened to before. A change of the mode takes Deactivate
//	    between, else it is FAILED_PRECONDITION. A plugin that is asked (admission) tells
//	    nothing: the kernel asks it. The identity of a shadow may only read; its folders
//	    and sockets are its own.
//	  - Renew replaces the credentials of a configuration, active or not; before a
//	    Configure it is FAILED_PRECONDITION. It may be UNIMPLEMENTED: the plugin is then
//	    restarted in good order before its certificates end.
//	  - Health may be called at any time and by several callers; its first report comes at
//	    once, then one for each change and at least one in 10 s.
//	  - Drain once before an orderly end; the plugin stays active. Not drained in time is
//	    no reason to stay: Stop follows.
//	  - Stop ends what is active, answers, and the process ends with status 0.
//
// Methods may be called concurrently. What a plugin does not do it answers with
// UNIMPLEMENTED; Drain and Renew may be so. A plugin that cannot go on reports FAILED or simply
// ends with another status than 0, and is started again with back-off.
//
// Package plugintest is the suite that every plugin passes.
package pluginv1
