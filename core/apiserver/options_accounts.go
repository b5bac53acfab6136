package apiserver

import (
	"crypto"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/util/keyutil"

	"keelson.dev/keelson/core/auth"
)

// AccountTokenOptions are about the tokens of service accounts.
type AccountTokenOptions struct {
	// Issuers are the values of the claim iss that count; the first is signed with.
	// Default https://kubernetes.default.svc. and the cluster's domain.
	Issuers []string
	// Audiences are what this API server calls itself. Default: the issuers.
	Audiences []string
	// KeyFiles hold public (or private) keys whose tokens count as well: old ones
	// after a change. The signing key need not be among them. Default none.
	KeyFiles []string
	// SigningKeyFile is the private key that tokens are signed with, ECDSA P-256 to
	// P-521 or RSA. Default: the cluster's own, which goes on to count.
	SigningKeyFile string
	// MaxExpiration shortens tokens asked for, 0 for none. Default 0.
	MaxExpiration time.Duration
	// ExtendExpiration lets the hourly tokens of pods live a year, for programs that
	// do not read them again. Default on.
	ExtendExpiration bool
	// JWKSURI is where the discovery document says that keys are. Default: the
	// issuer's URL and /openid/v1/jwks.
	JWKSURI string
}

func newAccountTokenOptions() AccountTokenOptions { return AccountTokenOptions{ExtendExpiration: true} }

func (o *AccountTokenOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringArrayVar(&o.Issuers, "service-account-issuer", nil, "Issuer of service account tokens; may be repeated: the first signs, all are accepted (default: https://kubernetes.default.svc.DOMAIN)")
	fs.StringSliceVar(&o.Audiences, "api-audiences", nil, "Audiences of tokens for this API server (default: the issuers)")
	fs.StringArrayVar(&o.KeyFiles, "service-account-key-file", nil, "PEM file of further keys that service account tokens may be signed with; may be repeated")
	fs.StringVar(&o.SigningKeyFile, "service-account-signing-key-file", "", "PEM file of the private key that signs service account tokens (default: the cluster's own)")
	fs.DurationVar(&o.MaxExpiration, "service-account-max-token-expiration", 0, "Longest life of a service account token; longer ones asked for are shortened (0: no limit)")
	fs.BoolVar(&o.ExtendExpiration, "service-account-extend-token-expiration", o.ExtendExpiration, "Let tokens of pods live a year, for programs that do not read them anew")
	fs.StringVar(&o.JWKSURI, "service-account-jwks-uri", "", "URI (https) of the key set in the discovery document (default: below the issuer)")
	markPaths(fs, "service-account-key-file", "service-account-signing-key-file")
}

func (o *AccountTokenOptions) validate() []error {
	var errs []error
	seen := map[string]bool{}
	for _, issuer := range o.Issuers {
		u, err := url.Parse(issuer)
		if issuer == "" || strings.Contains(issuer, ":") && (err != nil || u.Scheme != "https") {
			errs = append(errs, fmt.Errorf("--service-account-issuer %q: must be a URL with https, or a name without a colon", issuer))
		}
		if seen[issuer] {
			errs = append(errs, fmt.Errorf("--service-account-issuer %q: is given twice", issuer))
		}
		seen[issuer] = true
	}
	for _, a := range o.Audiences {
		if a == "" {
			errs = append(errs, errors.New("--api-audiences: an audience is empty"))
		}
	}
	if o.MaxExpiration != 0 && (o.MaxExpiration < time.Hour || o.MaxExpiration > time.Second<<32) {
		errs = append(errs, fmt.Errorf("--service-account-max-token-expiration %s: must be 0, or between 1h and 2^32 seconds", o.MaxExpiration))
	}
	if o.JWKSURI != "" {
		if u, err := url.Parse(o.JWKSURI); err != nil || u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("--service-account-jwks-uri %q: must be a URL with https", o.JWKSURI))
		}
	}
	if _, err := o.signer(); err != nil {
		errs = append(errs, err)
	}
	if _, err := o.keys(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// signer reads the signing key, nil if there is none of its own.
func (o *AccountTokenOptions) signer() (crypto.Signer, error) {
	if o.SigningKeyFile == "" {
		return nil, nil
	}
	key, err := keyutil.PrivateKeyFromFile(o.SigningKeyFile)
	if err != nil {
		return nil, fmt.Errorf("--service-account-signing-key-file: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("--service-account-signing-key-file %s: holds a %T, not a key that signs", o.SigningKeyFile, key)
	}
	return signer, nil
}

// keys reads the further keys.
func (o *AccountTokenOptions) keys() ([]crypto.PublicKey, error) {
	var all []crypto.PublicKey
	for _, path := range o.KeyFiles {
		keys, err := keyutil.PublicKeysFromFile(path)
		if err != nil {
			return nil, fmt.Errorf("--service-account-key-file: %w", err)
		}
		for _, key := range keys {
			all = append(all, key)
		}
	}
	return all, nil
}

// newTokens makes the issuer of a cluster's service account tokens.
func newTokens(c *Config, objects auth.Objects) (*auth.Tokens, error) {
	o := &c.Options.Authentication.Accounts
	signer, err := o.signer()
	if err != nil {
		return nil, err
	}
	keys, err := o.keys()
	if err != nil {
		return nil, err
	}
	own := c.PKI.ServiceAccountKey()
	if signer == nil {
		signer = own
	} else {
		keys = append(keys, own.Public())
	}
	return auth.NewTokens(auth.TokenConfig{
		Issuers: orElse(o.Issuers, auth.Issuer(c.Domain)), Audiences: o.Audiences, Signer: signer, Keys: keys, Objects: objects,
		MaxExpiration: o.MaxExpiration, Extend: o.ExtendExpiration, JWKSURI: o.JWKSURI, CA: c.PKI.CAPEM(),
	})
}

func orElse(list []string, one string) []string {
	if len(list) == 0 {
		return []string{one}
	}
	return list
}
