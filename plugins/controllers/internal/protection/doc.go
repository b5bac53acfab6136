// Package protection lets go of storage objects that are being deleted when
// nothing uses them any more: the API server puts a finalizer on each
// PersistentVolumeClaim, PersistentVolume and VolumeAttributesClass, and these
// controllers take it off.
//
// In: the objects and Pods from shared informers. Out: finalizers. What the
// cache says to be unused is asked of the API once more before the finalizer
// goes, since a pod that was just made may not be in the cache.
package protection
