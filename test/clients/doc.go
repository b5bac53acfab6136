// Package clients shows that real clients get on with the API server: kubectl (the
// machine's and the one in our binary), client-go's informers, operators made with
// controller-runtime, and Helm; and that clients which mean ill, or are broken, do
// not harm it. The server is a real one, with a store, TLS and, where it matters, the
// controllers and the scheduler. docs/clients.md tells what is shown.
package clients
