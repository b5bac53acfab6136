package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateProbe(p *corev1.Probe, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateHandler(handler{p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil}, 0, at)
	for child, v := range map[string]int32{"initialDelaySeconds": p.InitialDelaySeconds, "timeoutSeconds": p.TimeoutSeconds,
		"periodSeconds": p.PeriodSeconds, "successThreshold": p.SuccessThreshold, "failureThreshold": p.FailureThreshold} {
		if v < 0 {
			errs = append(errs, field.Invalid(at.Child(child), v, "must be greater than or equal to 0"))
		}
	}
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

func validateLifecycle(l *corev1.Lifecycle, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	if l == nil {
		return nil
	}
	var errs field.ErrorList
	var grace int64
	if spec.TerminationGracePeriodSeconds != nil {
		grace = *spec.TerminationGracePeriodSeconds
	}
	for child, h := range map[string]*corev1.LifecycleHandler{"postStart": l.PostStart, "preStop": l.PreStop} {
		if h != nil {
			errs = append(errs, validateHandler(handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, grace, at.Child(child))...)
		}
	}
	return errs
}

type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func validateHandler(h handler, grace int64, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	given := 0
	count := func(child string) {
		given++
		if given > 1 {
			errs = append(errs, field.Forbidden(at.Child(child), "may not specify more than 1 handler type"))
		}
	}
	if h.exec != nil {
		count("exec")
		if len(h.exec.Command) == 0 {
			errs = append(errs, field.Required(at.Child("exec", "command"), ""))
		}
	}
	if h.http != nil {
		count("httpGet")
		if h.http.Path == "" {
			errs = append(errs, field.Required(at.Child("httpGet", "path"), ""))
		}
		errs = append(errs, validatePort(h.http.Port, at.Child("httpGet", "port"))...)
		errs = append(errs, required(h.http.Scheme, schemes, at.Child("httpGet", "scheme"))...)
		for _, header := range h.http.HTTPHeaders {
			errs = append(errs, invalid(header.Name, at.Child("httpGet", "httpHeaders"), validation.IsHTTPHeaderName(header.Name))...)
		}
	}
	if h.tcp != nil {
		count("tcpSocket")
		errs = append(errs, validatePort(h.tcp.Port, at.Child("tcpSocket", "port"))...)
	}
	if h.grpc != nil {
		count("grpc")
		errs = append(errs, invalid(h.grpc.Port, at.Child("grpc", "port"), validation.IsValidPortNum(int(h.grpc.Port)))...)
	}
	if h.sleep != nil {
		count("sleep")
		if h.sleep.Seconds < 0 || h.sleep.Seconds > grace {
			errs = append(errs, field.Invalid(at.Child("sleep"), h.sleep.Seconds,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", grace)))
		}
	}
	if given == 0 {
		errs = append(errs, field.Required(at, "must specify a handler type"))
	}
	return errs
}

func validatePort(port intstr.IntOrString, at *field.Path) field.ErrorList {
	if port.Type == intstr.Int {
		return invalid(port.IntValue(), at, validation.IsValidPortNum(port.IntValue()))
	}
	return invalid(port.StrVal, at, portName(port.StrVal))
}
