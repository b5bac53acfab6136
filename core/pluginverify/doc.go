// Package pluginverify starts a plugin's program without a cluster and holds it to the
// base contract and to that of its kind: what `keelson plugins verify` does, for authors and
// for their tests.
//
// The program gets an identity of an authority that is thrown away afterwards, does the
// real handshake, describes itself, and is passed through the suite of
// proto/plugin/v1/plugintest. Unless it is asked for, the plugin is never activated, so
// that nothing of the machine changes.
//
// The suite of a kind wants the plugin at work, and of plugins that decide examples of what
// they have to decide. Those of network and storage get namespaces of their own for links
// and mounts, so that they leave nothing behind.
//
// The suites are of `go test`, and end the process that they run in. Verify therefore
// executes its own program again, which has to call SuiteMain when its first argument is
// SuiteCommand. No goroutine is left when Verify returns, and no process.
package pluginverify
