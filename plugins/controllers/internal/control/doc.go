// Package control is what the controllers of this plugin have in common: the
// Context with clients and shared informers, the Loop that turns events into
// calls of a sync function, expectations, adoption, and what a pod's state
// means to a controller.
//
// Goroutines: a Loop runs its workers and waits for them. Guarantees: a key is
// never synced by two workers at once; a sync that returned an error is called
// again after a back-off of 5 ms to one minute.
package control
