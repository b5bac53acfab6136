package auth

import (
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func policyLine(spec string) string {
	return `{"apiVersion":"` + abacVersion + `","kind":"Policy","spec":{` + spec + `}}`
}

func TestABAC(t *testing.T) {
	ann := &user.DefaultInfo{Name: "ann", Groups: []string{"dev", user.AllAuthenticated}}
	nobody := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	get := authorizer.AttributesRecord{User: ann, Verb: "get", Namespace: "ns", APIGroup: "apps", Resource: "deployments", ResourceRequest: true}
	write, path, stranger := get, authorizer.AttributesRecord{User: ann, Verb: "get", Path: "/logs/x"}, get
	write.Verb, stranger.User = "update", nobody
	for name, tt := range map[string]struct {
		spec string
		a    authorizer.AttributesRecord
		want bool
	}{
		"user":                {`"user":"ann","namespace":"*","resource":"*","apiGroup":"*"`, get, true},
		"other user":          {`"user":"bob","namespace":"*","resource":"*","apiGroup":"*"`, get, false},
		"group":               {`"group":"dev","namespace":"ns","resource":"deployments","apiGroup":"apps"`, get, true},
		"user and group":      {`"user":"ann","group":"ops","namespace":"*","resource":"*","apiGroup":"*"`, get, false},
		"everybody known":     {`"user":"*","namespace":"*","resource":"*","apiGroup":"*"`, get, true},
		"not the unknown":     {`"user":"*","namespace":"*","resource":"*","apiGroup":"*"`, stranger, false},
		"the unknown":         {`"group":"system:unauthenticated","namespace":"*","resource":"*","apiGroup":"*"`, stranger, true},
		"other namespace":     {`"user":"ann","namespace":"x","resource":"*","apiGroup":"*"`, get, false},
		"other group of APIs": {`"user":"ann","namespace":"*","resource":"*","apiGroup":""`, get, false},
		"reading":             {`"user":"ann","namespace":"*","resource":"*","apiGroup":"*","readonly":true`, get, true},
		"reading, not more":   {`"user":"ann","namespace":"*","resource":"*","apiGroup":"*","readonly":true`, write, false},
		"path":                {`"user":"ann","nonResourcePath":"/logs/*"`, path, true},
		"other path":          {`"user":"ann","nonResourcePath":"/version"`, path, false},
		"resources no path":   {`"user":"ann","namespace":"*","resource":"*","apiGroup":"*"`, path, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParseABAC([]byte("# comment\n\n" + policyLine(tt.spec)))
			if err != nil {
				t.Fatal(err)
			}
			if got, _, _ := p.Authorize(t.Context(), tt.a); (got == authorizer.DecisionAllow) != tt.want {
				t.Errorf("allowed is %v, want %v", got == authorizer.DecisionAllow, tt.want)
			}
		})
	}
}

func TestABACRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"x": "line 1: is not a policy", `{}`: "apiVersion", policyLine(`"usr":"a"`): "unknown field", policyLine(``): "matches nobody",
		policyLine(`"user":"a"`) + "{}":                           "more than one",
		`{"apiVersion":"` + abacVersion + `","kind":"x"}`:         "kind",
		`{"apiVersion":"` + abacVersion + `","kind":"Policy"}`:    "spec: is missing",
		policyLine(`"user":"` + strings.Repeat("a", 70000) + `"`): "longer than",
	} {
		if _, err := ParseABAC([]byte(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q in it", line, err, want)
		}
	}
}

func FuzzABAC(f *testing.F) {
	f.Add([]byte(policyLine(`"user":"*","nonResourcePath":"*"`)))
	f.Add([]byte("# x\n{"))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := ParseABAC(content)
		if err != nil {
			return
		}
		for _, one := range p.policies {
			if one.User == "" && one.Group == "" {
				t.Error("a policy for nobody was taken")
			}
		}
		_, _, _ = p.Authorize(t.Context(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "a"}, Path: "/"})
	})
}
