// Package binder binds PersistentVolumeClaims and PersistentVolumes to each
// other, and hands claims that no volume fits to external provisioners.
//
// In: claims and volumes from shared informers; StorageClasses from an informer
// that starts with the first claim that is not bound. Out: the claimRef and phase
// of volumes, the volumeName, class, annotations and phase of claims, and events.
//
// A bind is four writes, in this order: the volume's claimRef, the volume's phase,
// the claim's volumeName with the annotation bind-completed, the claim's phase. Each
// demands that the object be as it was read. So the claimRef, with the claim's UID,
// is what decides who has a volume, and at most one claim can have it. A process
// that dies between two of them leaves a state from which any sync goes on: the
// volume with a claimRef to a claim without volumeName is bound to the end; a volume
// taken for a claim that has another one is let go.
//
// One goroutine syncs; what it wrote it remembers until the informers have it, so
// that it never decides on a state older than its own writes. Before it gives
// something up (a volume whose claim is gone, a claim whose volume is gone) it asks
// the API itself.
//
// Left to others: nodes (the scheduler picks one for claims of classes with
// WaitForFirstConsumer, by the annotation selected-node or by a claimRef), making
// and deleting of storage (external provisioners), and deletion protection (package
// protection). Nothing is recycled, and what is no driver's is not deleted: such
// volumes become Failed and say why.
package binder
