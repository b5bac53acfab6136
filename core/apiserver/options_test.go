package apiserver

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestOptionsRefuse(t *testing.T) {
	for flag, want := range map[string]string{
		"--audit-log-path=/var/log/a.log":                                       "name one with --audit-policy-file",
		"--audit-policy-file=/etc/policy":                                       "name a log with --audit-log-path",
		"--audit-log-mode=sometimes --audit-log-path=/a --audit-policy-file=/b": "audit log mode",
		"--goaway-chance=0.5":                                                   "from 0 to 0.02",
		"--request-timeout=1ms":                                                 "at least 1s",
		"--max-requests-inflight=-1":                                            "must not be negative",
		"--cors-allowed-origins=example.com":                                    "--cors-allowed-origins",
		"--strict-transport-security-directives=x":                              "x",
		"--tls-san=a_b":                                                         "host name or an IP address",
		"--tls-min-version=VersionTLS10":                                        "VersionTLS12 or VersionTLS13",
		"--tls-cipher-suites=NULL":                                              "NULL",
		"--tls-sni-cert-key=a.crt,a.key":                                        "absolute",
		"--tls-sni-cert-key=a.crt":                                              "CERT,KEY",
	} {
		t.Run(flag, func(t *testing.T) {
			o := NewOptions()
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			o.AddFlags(fs)
			err := fs.Parse(strings.Fields(flag))
			var texts []string
			if err != nil {
				texts = append(texts, err.Error())
			}
			for _, err := range o.Validate() {
				texts = append(texts, err.Error())
			}
			if text := strings.Join(texts, "; "); !strings.Contains(text, want) {
				t.Errorf("got %q, want %q in it", text, want)
			}
		})
	}
}

func TestDefaultOptionsAreValid(t *testing.T) {
	if errs := NewOptions().Validate(); len(errs) > 0 {
		t.Error(errs)
	}
	// With the flags registered and none given, nothing changes.
	o := NewOptions()
	o.AddFlags(pflag.NewFlagSet("", pflag.ContinueOnError))
	if errs := o.Validate(); len(errs) > 0 {
		t.Error(errs)
	}
}
