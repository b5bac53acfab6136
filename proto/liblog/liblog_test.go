package liblog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
)

func TestNew(t *testing.T) {
	reset := fmt.Errorf("readfrom tcp: %w", &net.OpError{Op: "write", Net: "tcp", Err: syscall.ECONNRESET})
	tests := []struct {
		name  string
		level slog.Level
		say   func(logr.Logger)
		want  string // the line's start; none if it is not to be seen
	}{
		{"information", slog.LevelInfo, func(l logr.Logger) { l.Info("Adding GroupVersion") }, ""},
		{"information while debugging", slog.LevelDebug, func(l logr.Logger) { l.Info("Adding GroupVersion") }, "level=DEBUG msg=\"Adding GroupVersion\""},
		{"error", slog.LevelInfo, func(l logr.Logger) { l.Error(errors.New("x"), "Broken") }, "level=ERROR msg=Broken err=x"},
		{"error without its cause", slog.LevelInfo, func(l logr.Logger) { l.Error(nil, "Broken") }, "level=ERROR msg=Broken"},
		{"closed", slog.LevelInfo, func(l logr.Logger) { l.Error(net.ErrClosed, "Error on socket receive") }, ""},
		{"reset", slog.LevelInfo, func(l logr.Logger) { l.Error(reset, "Error proxying") }, ""},
		{"websocket", slog.LevelInfo, func(l logr.Logger) {
			l.Error(errors.New("websocket: close 1006 (abnormal closure): unexpected EOF"), "Error proxying")
		}, ""},
		{"closed while debugging", slog.LevelDebug, func(l logr.Logger) { l.Error(net.ErrClosed, "Gone") }, "level=DEBUG msg=Gone"},
		{"with values", slog.LevelInfo, func(l logr.Logger) { l.WithValues("a", 1).WithName("n").Info("Hello") }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			drop := func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}
			text := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: tt.level, ReplaceAttr: drop})
			tt.say(logr.FromSlogHandler(New(slog.New(text)).Handler()))
			if got := out.String(); (tt.want == "") != (got == "") || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
