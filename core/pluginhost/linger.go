package pluginhost

import (
	"slices"
	"time"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// maxLingering is how many processes of a plugin are kept for their streams: the oldest
// goes when there is one more.
const maxLingering = 4

// present is how many sessions there are that have a role or leave: what lingers is in
// nobody's way.
func (v *supervisor) present() int { return len(v.alive) - len(v.lingering) }

// retire takes leave of a process that was replaced. One that has streams open for others
// serves them to their end first.
func (v *supervisor) retire(s *session) {
	if s.streams <= 0 {
		s.end()
		return
	}
	if len(v.lingering) >= maxLingering {
		v.dismiss(v.lingering[0], "others linger")
	}
	s.until = time.Now().Add(v.host.cfg.Periods.Streams)
	v.lingering = append(v.lingering, s)
	v.slog.Info("The process that was replaced is kept for its streams", "revision", s.target.revision, "pid", s.body.pid(), "streams", s.streams, "until", s.until)
}

// dismissIdle ends a process whose last stream has ended. Only what it says of itself as a
// standby counts: a report may have been sent before it was deactivated.
func (v *supervisor) dismissIdle(s *session) {
	if s.streams <= 0 && s.state == pluginv1.State_STATE_STANDBY && slices.Contains(v.lingering, s) {
		v.dismiss(s, "its streams have ended")
	}
}

// dismissLate ends those that have had their time.
func (v *supervisor) dismissLate(now time.Time) {
	for _, s := range slices.Clone(v.lingering) {
		if !now.Before(s.until) {
			v.dismiss(s, "its time is over")
		}
	}
}

func (v *supervisor) dismiss(s *session, why string) {
	v.lingering = without(v.lingering, s)
	v.slog.Info("The process that was replaced is ended", "revision", s.target.revision, "pid", s.body.pid(), "streams", s.streams, "reason", why)
	s.end()
}

// without is list without one.
func without(list []*session, s *session) []*session {
	return slices.DeleteFunc(list, func(o *session) bool { return o == s })
}
