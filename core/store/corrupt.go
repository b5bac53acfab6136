package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
)

// This file serves the feature AllowUnsafeMalformedObjectDeletion: objects that can no longer be decrypted or decoded
// are reported one by one, and may be deleted unread.

// maxCorruptErrors bounds the errors that one list reports.
const maxCorruptErrors = 100

var errTooMany = errors.New("too many errors, the list is truncated")

const (
	untransformable = "data from the storage is not transformable"
	undecodable     = "object not decodable"
)

// corruptObjectError says that an object's stored form is of no use.
type corruptObjectError struct {
	err      error
	kind     string
	revision uint64
}

// Error implements error, in upstream's words.
func (e *corruptObjectError) Error() string {
	return fmt.Sprintf("%s revision=%d: %v", e.kind, e.revision, e.err)
}

// Unwrap returns the cause.
func (e *corruptObjectError) Unwrap() error { return e.err }

// corruptDeletedError is what watchers get when a corrupt object was deleted.
type corruptDeletedError struct{ err error }

// Error implements error, in upstream's words.
func (e *corruptDeletedError) Error() string {
	return fmt.Sprintf("saw a DELETED event, but object data is corrupt - %v", e.err)
}

// Unwrap returns the cause.
func (e *corruptDeletedError) Unwrap() error { return e.err }

// corruptTransformer marks the errors of a transformer.
type corruptTransformer struct{ value.Transformer }

// TransformFromStorage implements value.Transformer.
func (t corruptTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	out, stale, err := t.Transformer.TransformFromStorage(ctx, data, dataCtx)
	if err != nil {
		err = &corruptObjectError{err: err, kind: untransformable}
	}
	return out, stale, err
}

// unsafeStorage reports corrupt objects in the form that the registry looks for.
type unsafeStorage struct{ *Storage }

// Get implements storage.Interface.
func (s *unsafeStorage) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	err := s.Storage.Get(ctx, key, opts, out)
	if corrupt, ok := errors.AsType[*corruptObjectError](err); ok {
		return storage.NewCorruptObjError(key, corrupt)
	}
	return err
}

// GetList implements storage.Interface.
func (s *unsafeStorage) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	err := s.Storage.GetList(ctx, key, opts, list)
	if all, ok := errors.AsType[*corruptListError](err); ok {
		return all.status(s.resource)
	}
	return err
}

// listErrors collects the errors of one list.
type listErrors struct {
	aggregate bool
	errs      []error
	abort     error
}

// add notes an error; the list goes on if it returns true.
func (l *listErrors) add(key string, err error) bool {
	var corrupt *corruptObjectError
	if !l.aggregate || !errors.As(err, &corrupt) {
		l.abort = err
		return false
	}
	l.errs = append(l.errs, storage.NewCorruptObjError(key, corrupt))
	if len(l.errs) >= maxCorruptErrors {
		l.abort = errTooMany
		return false
	}
	return true
}

func (l *listErrors) err() error {
	if len(l.errs) == 0 {
		return l.abort
	}
	return &corruptListError{errs: l.errs, abort: l.abort}
}

// corruptListError are the corrupt objects that a list met.
type corruptListError struct {
	errs  []error
	abort error // why the list ended early, if it did
}

// Error implements error.
func (e *corruptListError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "unable to transform or decode %d objects: {\n", len(e.errs))
	for _, err := range e.errs {
		fmt.Fprintf(&b, "\t%s\n", err)
	}
	b.WriteString("}")
	if e.abort != nil {
		fmt.Fprintf(&b, ", aborted: %v", e.abort)
	}
	return b.String()
}

func (e *corruptListError) status(resource schema.GroupResource) error {
	var causes []metav1.StatusCause
	for _, err := range e.errs {
		if se, ok := errors.AsType[*storage.StorageError](err); ok {
			causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Field: se.Key, Message: err.Error()})
		}
	}
	if errors.Is(e.abort, errTooMany) {
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeTooMany, Message: errTooMany.Error()})
	} else if e.abort != nil {
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Message: e.abort.Error()})
	}
	message := fmt.Sprintf("failed to read one or more %s from the storage: %v", resource, e.errs[0])
	if len(e.errs) > 1 {
		message = fmt.Sprintf("%s (and %d more)", message, len(e.errs)-1)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonStoreReadError,
		Details: &metav1.StatusDetails{Group: resource.Group, Kind: resource.Resource, Name: "list", Causes: causes},
		Message: message,
	}}
}
