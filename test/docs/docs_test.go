// Package docs holds tests of the documentation: what it links to exists, each
// plugin's page has the sections that a reader expects, and each command and
// make target that is named in it is there.
package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// pages are all Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard", "*.md").Output()
	if err != nil {
		t.Fatalf("list pages: %v", err)
	}
	list := strings.Fields(string(out))
	if len(list) < 10 {
		t.Fatalf("found only %d pages: %q", len(list), list)
	}
	return list
}

func read(t *testing.T, page string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	for _, page := range pages(t) {
		for _, match := range link.FindAllStringSubmatch(read(t, page), -1) {
			target := match[1]
			if strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), target)); err != nil {
				t.Errorf("%s links to %s: %v", page, target, err)
			}
		}
	}
}

func TestPluginPagesHaveTheirSections(t *testing.T) {
	plugins, err := filepath.Glob(filepath.Join(root, "plugins", "*", "plugin.go"))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, file := range plugins {
		dir := filepath.Dir(file)
		if filepath.Base(dir) == "kit" {
			continue
		}
		count++
		page, err := filepath.Rel(root, filepath.Join(dir, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		text := read(t, page)
		at := 0
		for _, section := range []string{"Name", "Description", "Configuration", "Examples", "Contracts", "Privileges", "Metrics", "Failure"} {
			found := regexp.MustCompile(`(?m)^#+ ` + section + `$`).FindStringIndex(text)
			if found == nil {
				t.Errorf("%s has no section %q", page, section)
			} else if found[0] < at {
				t.Errorf("%s: section %q is out of order", page, section)
			} else {
				at = found[0]
			}
		}
	}
	if count < 7 {
		t.Errorf("found %d plugins, want the seven built-in ones at least", count)
	}
}

func TestMakeTargetsExist(t *testing.T) {
	makefile := read(t, "Makefile")
	target := regexp.MustCompile("(?:sudo |`)make ([a-z0-9-]+)")
	for _, page := range pages(t) {
		for _, match := range target.FindAllStringSubmatch(read(t, page), -1) {
			if !strings.Contains(makefile, "\n"+match[1]+":") {
				t.Errorf("%s names make %s, which the Makefile does not have", page, match[1])
			}
		}
	}
	for _, name := range []string{"build", "test", "root-test", "e2e", "bench", "fuzz", "lint", "generate", "verify", "help"} {
		if !regexp.MustCompile(`(?m)^` + name + `:.*## `).MatchString(makefile) {
			t.Errorf("the Makefile has no target %s that make help lists", name)
		}
	}
}

// TestEveryDirectDependencyHasAReason keeps docs/dependencies.md beside go.mod.
func TestEveryDirectDependencyHasAReason(t *testing.T) {
	page := read(t, "docs/dependencies.md")
	direct := regexp.MustCompile(`(?m)^\t([a-z0-9.]+/\S+) v\S+$`)
	for _, match := range direct.FindAllStringSubmatch(read(t, "go.mod"), -1) {
		module := match[1]
		short := module[strings.LastIndex(module, "/")+1:]
		if strings.HasPrefix(short, "v") && len(short) <= 3 {
			short = filepath.Base(filepath.Dir(module))
		}
		if !strings.Contains(page, module) && !strings.Contains(page, "`"+short+"`") {
			t.Errorf("docs/dependencies.md has no reason for %s", module)
		}
	}
}
