package apiserver

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/registry"
)

// Paths from which a backup is taken. Who may get the first reads all objects, Secrets
// too; who may get the second has the authority's keys. Only administrators may unless a
// ClusterRole with these nonResourceURLs says otherwise.
const (
	BackupPath    = "/keelson/v1alpha1/backup"
	BackupPKIPath = "/keelson/v1alpha1/backup-with-pki"
)

// installBackup serves backups.
func (s *Server) installBackup(generic *genericapiserver.GenericAPIServer) {
	mux := generic.Handler.NonGoRestfulMux
	mux.HandleFunc(BackupPath, func(w http.ResponseWriter, r *http.Request) { s.serveBackup(w, r, false) })
	mux.HandleFunc(BackupPKIPath, func(w http.ResponseWriter, r *http.Request) { s.serveBackup(w, r, true) })
}

// longRunning adds backups to the requests that may take their time.
func longRunning(check request.LongRunningRequestCheck) request.LongRunningRequestCheck {
	return func(r *http.Request, info *request.RequestInfo) bool {
		return check(r, info) || !info.IsResourceRequest && (info.Path == BackupPath || info.Path == BackupPKIPath)
	}
}

func (s *Server) serveBackup(w http.ResponseWriter, r *http.Request, pki bool) {
	refuse := func(err error) {
		responsewriters.ErrorNegotiated(err, registry.Codecs, schema.GroupVersion{Version: "v1"}, w, r)
	}
	if r.Method != http.MethodGet {
		refuse(apierrors.NewMethodNotSupported(schema.GroupResource{Resource: "backups"}, r.Method))
		return
	}
	namespace := r.URL.Query().Get("namespace")
	if wrong := validation.IsDNS1123Label(namespace); namespace != "" && len(wrong) > 0 {
		refuse(apierrors.NewBadRequest(fmt.Sprintf("namespace %q: %s", namespace, wrong[0])))
		return
	}
	var files func() ([]*backup.File, error)
	if pki {
		if s.config.BackupFiles == nil || namespace != "" {
			refuse(apierrors.NewBadRequest("certificates and settings are part of backups of whole clusters only; this server has none, or a namespace was named"))
			return
		}
		files = s.config.BackupFiles
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	begun := &begunWriter{ResponseWriter: w}
	if err := backup.Write(r.Context(), begun, s.config.DB, files, namespace); err != nil {
		if !begun.begun {
			refuse(&apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable, Reason: metav1.StatusReasonServiceUnavailable,
				Message: "no backup was taken: " + err.Error(),
			}})
			return
		}
		if r.Context().Err() == nil {
			s.config.Log.Error("A backup was broken off", "err", err)
		}
		panic(http.ErrAbortHandler) // the client must not take it for whole; nor would it without the end
	}
}

// begunWriter notes whether anything was written.
type begunWriter struct {
	http.ResponseWriter
	begun bool
}

// Write implements io.Writer.
func (w *begunWriter) Write(b []byte) (int, error) {
	w.begun = true
	n, err := w.ResponseWriter.Write(b)
	if err != nil {
		err = errors.Join(errors.New("send backup"), err)
	}
	return n, err
}
