// Package author tests what a plugin author gets: the plugins that `keelson plugins new`
// writes are built as modules of their own, pass the contract's suite as processes, and the
// examples in Go and JavaScript do their work beside a real API server, each in the other's
// place. It needs what `scripts/setup test` installs.
package author
