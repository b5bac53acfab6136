// Package pki is Keelson's own certificate authority.
//
// It keeps four secrets in one directory (0700, files 0600): the cluster CA,
// which signs every client and server certificate; the front-proxy CA, for
// aggregated APIs; the key that signs service account tokens; and the leaf
// certificates that Keep was asked to keep. All keys are ECDSA P-256. A CA is
// valid for ten years, a leaf for one year, and a kept leaf is issued anew when
// less than a third of its life remains: when it is loaded, and, by way of
// Leaf, while the process runs, so that nothing has to be restarted for it.
//
// Files are replaced atomically (written aside, synced, renamed). A key without
// its certificate gets a new certificate for the same key, which is what a
// crash between the two writes leaves behind; everything else that does not fit
// together is an error that names the file, because silently making a new CA
// would lock every node and every kubeconfig out.
//
// The package starts no goroutine and knows nothing of the API server: what
// goes in and out is PEM.
package pki
