package apiserver

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	cliflag "k8s.io/component-base/cli/flag"
)

// ServingOptions are about the server's side of TLS.
type ServingOptions struct {
	// SANs are more names and addresses for the certificate that the cluster's CA
	// issues. Default: see docs/api.md.
	SANs []string
	// SNI are certificates of other authorities, shown to clients that ask for the
	// names in them, or for those given with the pair: CERT,KEY[:NAME,...]. Changed files take effect
	// within a minute. Default none.
	SNI []string
	// MinVersion is the lowest version of TLS, such as VersionTLS13. Default VersionTLS12.
	MinVersion string
	// CipherSuites are those for TLS 1.2, by their IANA names. Default: Go's.
	CipherSuites []string
}

func (o *ServingOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&o.SANs, "tls-san", nil, "Further host names and addresses in the API server's certificate")
	fs.StringArrayVar(&o.SNI, "tls-sni-cert-key", nil,
		"CERT,KEY[:NAME,...]: absolute paths of a certificate to show to clients that ask for its names (or those given); may be repeated")
	fs.StringVar(&o.MinVersion, "tls-min-version", "VersionTLS12", "Lowest version of TLS: VersionTLS12 or VersionTLS13")
	fs.StringSliceVar(&o.CipherSuites, "tls-cipher-suites", nil, "Cipher suites for TLS 1.2, by their IANA names (default: Go's)")
}

func (o *ServingOptions) validate() []error {
	var errs []error
	for _, san := range o.SANs {
		if _, err := netip.ParseAddr(san); err == nil {
			continue
		}
		if len(validation.IsDNS1123Subdomain(san)) > 0 && len(validation.IsWildcardDNS1123Subdomain(san)) > 0 {
			errs = append(errs, fmt.Errorf("--tls-san %q: must be a host name or an IP address", san))
		}
	}
	for _, value := range o.SNI {
		if pair, err := parsePair(value); err != nil {
			errs = append(errs, fmt.Errorf("--tls-sni-cert-key %q: must be CERT,KEY or CERT,KEY:NAME,...: %w", value, err))
		} else if !filepath.IsAbs(pair.CertFile) || !filepath.IsAbs(pair.KeyFile) {
			errs = append(errs, fmt.Errorf("--tls-sni-cert-key %q: both paths must be absolute", value))
		}
	}
	if version, err := cliflag.TLSVersion(o.MinVersion); err != nil || version < tls.VersionTLS12 {
		errs = append(errs, fmt.Errorf("--tls-min-version %q: must be VersionTLS12 or VersionTLS13", o.MinVersion))
	}
	if _, err := cliflag.TLSCipherSuites(o.CipherSuites); err != nil {
		errs = append(errs, fmt.Errorf("--tls-cipher-suites: %w", err))
	}
	return errs
}

func (o *ServingOptions) apply(s *genericapiserver.SecureServingInfo) error {
	var err error
	if s.MinTLSVersion, err = cliflag.TLSVersion(o.MinVersion); err != nil {
		return fmt.Errorf("--tls-min-version: %w", err)
	}
	if len(o.CipherSuites) > 0 {
		if s.CipherSuites, err = cliflag.TLSCipherSuites(o.CipherSuites); err != nil {
			return fmt.Errorf("--tls-cipher-suites: %w", err)
		}
	}
	for _, value := range o.SNI {
		pair, err := parsePair(value)
		if err != nil {
			return fmt.Errorf("--tls-sni-cert-key %q: %w", value, err)
		}
		cert, err := dynamiccertificates.NewDynamicSNIContentFromFiles("sni-serving-cert", pair.CertFile, pair.KeyFile, pair.Names...)
		if err != nil {
			return fmt.Errorf("--tls-sni-cert-key %q: %w", value, err)
		}
		s.SNICerts = append(s.SNICerts, cert)
	}
	return nil
}

func parsePair(value string) (cliflag.NamedCertKey, error) {
	var pair cliflag.NamedCertKey
	err := pair.Set(value)
	return pair, err
}
