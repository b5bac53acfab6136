// Package plugins tests the plugin host and the kit together, with real processes: the
// test binary executes itself as host and as built-in plugins (main_test.go), and a
// third-party plugin is built from testdata/hello, which imports plugins/kit alone.
package plugins
