package runtime

import (
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criSignal answers CRI's name of a signal.
func criSignal(n int) cri.Signal {
	const rtMin, rtMax = 34, 64
	name := unix.SignalName(unix.Signal(n))
	switch {
	case n == rtMin:
		name = "SIGRTMIN"
	case n == rtMax:
		name = "SIGRTMAX"
	case n > rtMin && n <= rtMin+15:
		name = "SIGRTMINPLUS" + itoa(n-rtMin)
	case n > rtMin+15 && n < rtMax:
		name = "SIGRTMAXMINUS" + itoa(rtMax-n)
	}
	return cri.Signal(cri.Signal_value["SIGNAL_"+name])
}

func itoa(n int) string {
	if n >= 10 {
		return string(rune('0'+n/10)) + string(rune('0'+n%10))
	}
	return string(rune('0' + n))
}
