// Package e2e tests the binary as a user would use it: `keelson up` on a machine
// of its own, the example application, and the machine's real kubectl.
//
// The machine is a network namespace with its own data and run folders, so the
// tests neither need nor disturb a cluster that runs on the host, and everything
// else is real: the kernel, nftables, cgroups, containers, processes killed with
// -9. KEELSON_BIN names the binary and `make e2e` sets it. Needs root, crun or
// runc, conmon and the example's images (test/example/images).
package e2e
