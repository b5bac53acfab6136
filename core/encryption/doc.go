// Package encryption keeps resources encrypted in the store, by an
// EncryptionConfiguration (apiserver.config.k8s.io/v1) as Kubernetes documents
// it: either the operator's own file, with any of upstream's providers, or one
// that Keelson makes and keeps itself (Ensure), which encrypts Secrets with a
// random key (secretbox: XSalsa20 and Poly1305).
//
// Transformers follows the file: a change takes effect at once, and a wrong one
// leaves what was in force. Rotate puts a new key first in a file of Keelson's
// own; objects are written with it from then on, and the old keys go on reading
// until Prune takes them out.
//
// The key lies beside the store it protects: that guards copies of the store
// (backups, discarded disks, support archives), not a machine whose root was
// taken over. Who wants more names a file with a KMS provider.
//
// Transformers.Run is the only goroutine; it ends with its context.
package encryption
