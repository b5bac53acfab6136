package review

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
)

// authenticationTimeout bounds an answer about a token.
const authenticationTimeout = 5 * time.Second

// tokens asks authentication plugins.
type tokens struct {
	set       *Set
	audiences authenticator.Audiences // of the API server
	key       []byte                  // of the hash under which answers are remembered
}

// Authenticator asks authentication plugins, in the order of their names, about bearer
// tokens. audiences are those of the API server.
func (s *Set) Authenticator(audiences authenticator.Audiences) authenticator.Token {
	return &tokens{set: s, audiences: audiences, key: []byte(rand.Text())}
}

// AuthenticateToken implements authenticator.Token.
func (t *tokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	list := t.set.authentication.Load()
	if list == nil || token == "" {
		return nil, false, nil
	}
	wanted, asked := authenticator.AudiencesFrom(ctx)
	if !asked || len(wanted) == 0 {
		wanted = t.audiences
	}
	var errs []error
	for _, p := range *list {
		r, err := t.ask(ctx, p, token, wanted)
		if err != nil {
			errs = append(errs, fmt.Errorf("authentication plugin %q: %w", p.name, err))
			continue
		}
		if r != nil {
			audit.AddAuditAnnotation(ctx, "authentication.keelson.dev/plugin", p.name)
			return r, true, nil
		}
	}
	return nil, false, utilerrors.NewAggregate(errs)
}

// hash is the name of a question; the token cannot be had from it.
func (t *tokens) hash(token string, wanted authenticator.Audiences) string {
	h := hmac.New(sha256.New, t.key)
	h.Write([]byte(token))
	for _, a := range wanted {
		h.Write([]byte{0})
		h.Write([]byte(a))
	}
	return string(h.Sum(nil))
}

// ask asks one plugin; nil without an error: it does not know the token.
func (t *tokens) ask(ctx context.Context, p *plugin, token string, wanted authenticator.Audiences) (*authenticator.Response, error) {
	key, known := t.hash(token, wanted), p.answers.Load()
	if r, ok := known.remembered.Get(key); ok {
		remembered.WithLabelValues(p.kind, p.name).Inc()
		return r.(*authenticator.Response), nil
	}
	// The answer may be for others too, so that it does not end with this request.
	result := known.flying.DoChan(key, func() (any, error) {
		return t.review(context.WithoutCancel(ctx), p, known, key, token, wanted)
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*authenticator.Response), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (t *tokens) review(ctx context.Context, p *plugin, known *answers, key, token string, wanted authenticator.Audiences) (*authenticator.Response, error) {
	begin := time.Now()
	var answer *authenticationv1.ReviewResponse
	err := p.call(ctx, authenticationTimeout, func(ctx context.Context) (err error) {
		answer, err = authenticationv1.NewAuthenticationServiceClient(p.conn).Review(ctx, &authenticationv1.ReviewRequest{Token: token, Audiences: wanted})
		return err
	})
	if err != nil {
		p.observe(begin, outcomeFailed)
		return nil, err
	}
	ttl := answer.GetCacheTtl().AsDuration()
	if !answer.GetAuthenticated() {
		p.observe(begin, outcomeUnknown)
		if answer.GetReason() != "" {
			p.set.log.Debug("Token refused", "plugin", p.name, "reason", answer.GetReason())
		}
		known.remember(key, (*authenticator.Response)(nil), ttl, longestUnknownToken)
		return nil, nil
	}
	r, err := t.response(answer, wanted)
	if err != nil {
		p.observe(begin, outcomeFailed)
		return nil, err
	}
	p.observe(begin, outcomeAuthenticated)
	known.remember(key, r, ttl, longestPositive)
	return r, nil
}

// response checks whom a plugin names. Nil: the token is good for other audiences.
func (t *tokens) response(answer *authenticationv1.ReviewResponse, wanted authenticator.Audiences) (*authenticator.Response, error) {
	u := answer.GetUser()
	if u.GetUsername() == "" {
		return nil, errors.New("it names no user")
	}
	for _, name := range append([]string{u.GetUsername()}, u.GetGroups()...) {
		if strings.HasPrefix(name, "system:") {
			return nil, fmt.Errorf("it names %q: what begins with system: is the cluster's own", name)
		}
	}
	for key := range u.GetExtra() {
		if key != strings.ToLower(key) || key == "" {
			return nil, fmt.Errorf("it names the extra key %q, which is not lower case", key)
		}
	}
	good := authenticator.Audiences(answer.GetAudiences())
	if len(good) == 0 {
		good = t.audiences
	}
	r := &authenticator.Response{
		Audiences: wanted.Intersect(good),
		User:      &user.DefaultInfo{Name: u.GetUsername(), UID: u.GetUid(), Groups: u.GetGroups(), Extra: extraOf(u.GetExtra())},
	}
	if len(r.Audiences) == 0 {
		return nil, nil
	}
	return r, nil
}
