package images

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// Normalize answers the full form of an image's name, as upstream runtimes do:
// nginx is docker.io/library/nginx:latest. With a digest, a tag is dropped.
func Normalize(name string) (string, error) {
	named, err := parse(name)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

func parse(name string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %s: %w", name, strings.TrimPrefix(err.Error(), "invalid reference format: "), ErrInvalid)
	}
	return named, nil
}

// Split answers repository and tag or digest of a full reference.
func Split(full string) (repository, tag string) {
	if repo, digest, ok := strings.Cut(full, "@"); ok {
		return repo, digest
	}
	if i := strings.LastIndex(full, ":"); i > strings.LastIndex(full, "/") {
		return full[:i], full[i+1:]
	}
	return full, ""
}
