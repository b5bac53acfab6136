package scheduler

// makeParts makes the filters that concern few pods, in the order in which they
// are asked. They may add informers of the factory and handlers to them.
func (s *Server) makeParts() ([]part, error) {
	var out []part
	if s.config.kube == nil {
		return out, nil
	}
	if len(s.config.kube.withoutMeaning) > 0 {
		s.env.Log.Info("Fields of kubeSchedulerConfiguration change nothing here", "fields", s.config.kube.withoutMeaning)
	}
	x, err := newExtenders(s.config.kube.extenders, s.env.Log)
	if err != nil {
		return nil, err
	}
	if x != nil {
		out = append(out, x)
	}
	return out, nil
}
