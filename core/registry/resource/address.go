package resource

import (
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateEndpointAddress refuses addresses that are special: no endpoint of a
// service may lie there. What is no address at all is left to others.
func ValidateEndpointAddress(value string, at *field.Path) field.ErrorList {
	ip, err := netip.ParseAddr(value)
	switch ip = ip.Unmap(); {
	case err != nil:
		return nil
	case ip.IsUnspecified():
		return field.ErrorList{field.Invalid(at, value, fmt.Sprintf("may not be unspecified (%v)", value))}
	case ip.IsLoopback():
		return field.ErrorList{field.Invalid(at, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case ip.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(at, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case ip.IsLinkLocalMulticast():
		return field.ErrorList{field.Invalid(at, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")}
	}
	return nil
}
