// Package chaos is for property tests of controllers: it runs the plugin controllers
// against a real API server with faults between them, kills and restarts it at random
// requests, and looks at every revision of the pods that the server gives out.
//
// A test of a workload kind is three things: a random sequence of changes, a rule that
// holds at every revision, and what is so in the end.
//
//	server := harness.Start(t)
//	server.Nodes(t, "node-a")                       // plays the kubelet
//	run := chaos.Start(t, server, controllers.Plugin, `{"controllers":["statefulset"]}`)
//	pods := run.Pods("default", func(c chaos.Change) error {
//		if n := c.Count(mine, chaos.Active); n > allowed.Load() {
//			return fmt.Errorf("%d pods", n)
//		}
//		return nil
//	})
//	for range rounds.Or(t, 10) {
//		run.Steps(15, scale, failPod, deletePod)    // each a func(*rand.Rand) error
//		run.Settle(func() string { ... })           // converges with faults, says what is not so yet
//	}
//
// Pods with spec.nodeName in their template need no scheduler. The sequence comes from a
// seed, which is in the output of a test that fails; KEELSON_SEED runs it again. What the
// goroutines of the server and the plugin make of it is not the same every time, so a
// failure may need some rounds (KEELSON_ROUNDS) to show again.
//
// Faults (see Faults): requests that never arrive, requests that are executed and whose
// answer is lost, late and cut watches. A kill is at a random request: it is executed, and
// from then on nothing that this instance of the plugin does reaches the server.
package chaos
