package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// maxDocument bounds manifests and configurations, in bytes.
const maxDocument = 8 << 20

// archive is a tar file whose members are read where they lie.
type archive struct {
	file    *os.File
	members map[string]member
}

type member struct {
	offset, size int64
	link         string
}

// openArchive lists the members of the tar file.
func openArchive(f *os.File) (*archive, error) {
	a := &archive{file: f, members: map[string]member{}}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	tr := tar.NewReader(f)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the archive: %w: %w", err, ErrInvalid)
		}
		name := strings.TrimPrefix(path.Clean("/"+hdr.Name), "/")
		switch hdr.Typeflag {
		case tar.TypeReg:
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			a.members[name] = member{offset: offset, size: hdr.Size}
		case tar.TypeSymlink: // docker save's shared layers
			a.members[name] = member{link: strings.TrimPrefix(path.Join("/", path.Dir(name), hdr.Linkname), "/")}
		case tar.TypeLink:
			a.members[name] = member{link: strings.TrimPrefix(path.Clean("/"+hdr.Linkname), "/")}
		}
	}
}

func (a *archive) open(name string) (*io.SectionReader, error) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for range 8 {
		m, ok := a.members[name]
		if !ok {
			return nil, fmt.Errorf("the archive has no %s: %w", name, ErrInvalid)
		}
		if m.link == "" {
			return io.NewSectionReader(a.file, m.offset, m.size), nil
		}
		name = m.link
	}
	return nil, fmt.Errorf("the archive's links go in circles at %s: %w", name, ErrInvalid)
}

func (a *archive) has(name string) bool {
	_, ok := a.members[name]
	return ok
}

func (a *archive) read(name string) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxDocument {
		return nil, fmt.Errorf("%s in the archive has %d bytes, more than %d: %w", name, r.Size(), maxDocument, ErrInvalid)
	}
	return io.ReadAll(r)
}

// blob reads a document of an OCI layout and checks its digest.
func (a *archive) blob(digest v1.Hash) ([]byte, error) {
	data, err := a.read(blobName(digest))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); digest.Algorithm != "sha256" || got != digest.Hex {
		return nil, fmt.Errorf("blob %s has the digest sha256:%s: %w", digest, got, ErrInvalid)
	}
	return data, nil
}

func blobName(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

// archived is one image of an archive.
type archived struct {
	names     []string // full references
	digest    string   // of the manifest; empty in docker save's old form
	id        string
	config    *v1.ConfigFile
	layerFile []string
}

// images lists what the archive has for this platform.
func (a *archive) images(platform v1.Platform) ([]archived, error) {
	switch {
	case a.has("index.json") && a.has("oci-layout"):
		return a.layoutImages(platform)
	case a.has("manifest.json"):
		return a.dockerImages()
	}
	return nil, fmt.Errorf("the archive is neither an OCI layout (index.json, oci-layout) nor of docker save (manifest.json): %w", ErrInvalid)
}

func (a *archive) layoutImages(platform v1.Platform) ([]archived, error) {
	data, err := a.read("index.json")
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w: %w", err, ErrInvalid)
	}
	var out []archived
	for _, desc := range index.Manifests {
		img, err := a.manifest(desc, platform, 0)
		if err != nil {
			return nil, err
		}
		if img == nil {
			continue
		}
		if name := annotatedName(desc.Annotations); name != "" {
			full, err := Normalize(name)
			if err != nil {
				return nil, err
			}
			img.names = []string{full}
		}
		out = append(out, *img)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the archive has no image for %s: %w", platform.String(), ErrInvalid)
	}
	return out, nil
}

// annotatedName prefers the annotation with a full name; the standard one often
// has a tag only, which says nothing about the repository.
func annotatedName(annotations map[string]string) string {
	for _, key := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
		if name := annotations[key]; strings.ContainsAny(name, "/:") {
			return name
		}
	}
	return ""
}

// manifest follows a descriptor to an image for the platform; nil without one.
func (a *archive) manifest(desc v1.Descriptor, platform v1.Platform, depth int) (*archived, error) {
	if depth > 4 {
		return nil, fmt.Errorf("indexes within indexes: %w", ErrInvalid)
	}
	if desc.Platform != nil && !desc.Platform.Satisfies(platform) && !desc.MediaType.IsIndex() {
		return nil, nil
	}
	data, err := a.blob(desc.Digest)
	if err != nil {
		return nil, err
	}
	if desc.MediaType.IsIndex() {
		var index v1.IndexManifest
		if err := json.Unmarshal(data, &index); err != nil {
			return nil, fmt.Errorf("index %s: %w: %w", desc.Digest, err, ErrInvalid)
		}
		for _, child := range index.Manifests {
			img, err := a.manifest(child, platform, depth+1)
			if err != nil || img != nil {
				return img, err
			}
		}
		return nil, nil
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w: %w", desc.Digest, err, ErrInvalid)
	}
	if !manifest.Config.MediaType.IsConfig() {
		return nil, nil // a signature, an attestation
	}
	raw, err := a.blob(manifest.Config.Digest)
	if err != nil {
		return nil, err
	}
	img := &archived{digest: desc.Digest.String(), id: manifest.Config.Digest.String()}
	for _, layer := range manifest.Layers {
		img.layerFile = append(img.layerFile, blobName(layer.Digest))
	}
	return img, img.setConfig(raw)
}

func (img *archived) setConfig(raw []byte) error {
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("configuration of image %s: %w: %w", img.id, err, ErrInvalid)
	}
	img.config = config
	if len(config.RootFS.DiffIDs) != len(img.layerFile) {
		return fmt.Errorf("image %s: the configuration names %d layers, the manifest %d: %w", img.id, len(config.RootFS.DiffIDs), len(img.layerFile), ErrInvalid)
	}
	return nil
}

func (a *archive) dockerImages() ([]archived, error) {
	data, err := a.read("manifest.json")
	if err != nil {
		return nil, err
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("manifest.json: %w: %w", err, ErrInvalid)
	}
	var out []archived
	for _, entry := range list {
		raw, err := a.read(entry.Config)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(raw)
		img := archived{id: "sha256:" + hex.EncodeToString(sum[:]), layerFile: entry.Layers}
		for _, tag := range entry.RepoTags {
			full, err := Normalize(tag)
			if err != nil {
				return nil, err
			}
			img.names = append(img.names, full)
		}
		if err := img.setConfig(raw); err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the archive has no image: %w", ErrInvalid)
	}
	return out, nil
}

// decompress answers the stream without gzip or zstd, which it sees by itself.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		dec, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return dec.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}
