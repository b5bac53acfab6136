package store

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Errors to compare with errors.Is.
var (
	// ErrLocked says that another process serves this data directory; see LockedError.
	ErrLocked = errors.New("store is in use")
	// ErrDamaged says that the data directory lost or changed what was written to it; see DamagedError.
	ErrDamaged = errors.New("store is damaged")
	// ErrClosed is what operations get while and after the DB closes.
	ErrClosed = errors.New("store is closed")

	errConflict  = errors.New("revision differs")     // an optimistic write met another revision
	errCompacted = errors.New("revision compacted")   // asked for a revision whose history is gone
	errFuture    = errors.New("revision not reached") // asked for a revision that was not given yet
)

// LockedError tells who holds a data directory.
type LockedError struct {
	Dir string
	// PID is the holder's process id, 0 if unknown.
	PID int
}

// Error implements error.
func (e *LockedError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("store %s is in use by %s; stop that server first", e.Dir, who)
}

// Is makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// DamagedError tells what is wrong with a data directory.
type DamagedError struct {
	// File is the damaged file, or the directory if the file is not known.
	File string
	// Problem is what was found.
	Problem string
	// Err is the cause, if there is one.
	Err error
}

// Error implements error.
func (e *DamagedError) Error() string {
	msg := fmt.Sprintf("store is damaged: %s: %s", e.File, e.Problem)
	if e.Err != nil {
		msg += ": " + firstLine(e.Err) // Badger's has more, with advice that does not fit here
	}
	return msg + "; nothing is served from it. Restore the data directory from a backup, or move it away to start with an empty cluster"
}

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrDamaged) true.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// damaged makes a DamagedError.
func damaged(file string, err error, format string, args ...any) error {
	return &DamagedError{File: file, Problem: fmt.Sprintf(format, args...), Err: err}
}

func (w *watcher) sendError(err error) {
	if ev := w.failure(err); ev != nil {
		w.send(*ev)
	}
}

// failure makes the event of an error that ends the watch, nil if it ended anyway.
func (w *watcher) failure(err error) *watch.Event {
	var deleted *corruptDeletedError
	switch {
	case w.ctx.Err() != nil || errors.Is(err, ErrClosed):
		return nil
	case errors.Is(err, errCompacted):
		err = apierrors.NewResourceExpired(msgWatchExpired)
	case errors.As(err, &deleted):
		err = &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Reason: metav1.StatusReasonStoreReadError, Message: deleted.Error(),
		}}
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	object := status.Status()
	return &watch.Event{Type: watch.Error, Object: &object}
}
