// Package harness starts what tests of more than one package share: an API server
// on a store of its own, behind TLS on a port that the system chooses; plugins with
// their own identity and rights; and kubectl. Everything ends with the test that
// started it, or by the function that Open returns.
package harness
