// Package pluginverify starts a plugin's program without a cluster and holds it to the
// base contract: what `keelson plugins verify` does, for authors and for their tests.
//
// The program gets an identity of an authority that is thrown away afterwards, does the
// real handshake, describes itself, and is passed through the suite of
// proto/plugin/v1/plugintest. Unless it is asked for, the plugin is never activated, so
// that nothing of the machine changes.
//
// The suite is one of `go test`, and ends the process that it runs in. Verify therefore
// executes its own program again, which has to call SuiteMain when its first argument is
// SuiteCommand. No goroutine is left when Verify returns, and no process.
package pluginverify
