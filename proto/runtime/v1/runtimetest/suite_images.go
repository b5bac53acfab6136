package runtimetest

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func testImages(t *testing.T, c *Client, base, archive []byte) {
	t.Run("Names", func(t *testing.T) { testImageNames(t, c) })
	t.Run("Tags", func(t *testing.T) { testImageTags(t, c, archive) })
	t.Run("DockerSave", func(t *testing.T) { testImageDockerSave(t, c, base) })
	t.Run("Whiteouts", func(t *testing.T) { testImageWhiteouts(t, c, base) })
	t.Run("Malicious", func(t *testing.T) { testImageMalicious(t, c) })
	t.Run("Damaged", func(t *testing.T) { testImageDamaged(t, c, archive) })
	t.Run("Pull", func(t *testing.T) { testImagePull(t, c) })
	t.Run("Remove", func(t *testing.T) { testImageRemove(t, c) })
}

// imageNamed is nil where there is no such image.
func imageNamed(t *testing.T, c *Client, ref string) *cri.Image {
	t.Helper()
	answer, err := c.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}, Verbose: true})
	if err != nil {
		t.Fatalf("ImageStatus %s: %v", ref, err)
	}
	return answer.GetImage()
}

func removeImage(t *testing.T, c *Client, ref string) {
	t.Helper()
	if _, err := c.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
		t.Fatalf("RemoveImage %s: %v", ref, err)
	}
}

func testImageNames(t *testing.T, c *Client) {
	img := imageNamed(t, c, ImageName)
	if img == nil || img.GetSize() == 0 || len(img.GetRepoDigests()) != 1 {
		t.Fatalf("got %v", img)
	}
	for _, ref := range []string{"docker.io/" + ImageName, "index.docker.io/" + ImageName, img.GetId(), strings.TrimPrefix(img.GetId(), "sha256:")[:12], img.GetRepoDigests()[0]} {
		if got := imageNamed(t, c, ref); got.GetId() != img.GetId() {
			t.Errorf("%s: got %v", ref, got)
		}
	}
	if imageNamed(t, c, "example/workload:v2") != nil || imageNamed(t, c, "workload:v1") != nil {
		t.Error("an image that is not there was found")
	}
}

func testImageTags(t *testing.T, c *Client, archive []byte) {
	answer, err := c.ImportTar(archive, "other/name")
	if err != nil || answer.GetImages()[0].GetReference() != "docker.io/other/name:latest" {
		t.Fatalf("Import: %v, %v", answer, err)
	}
	if tags := imageNamed(t, c, "other/name").GetRepoTags(); len(tags) != 2 {
		t.Errorf("tags: got %v", tags)
	}
	removeImage(t, c, "other/name:latest")
	if imageNamed(t, c, "other/name") != nil || imageNamed(t, c, ImageName) == nil {
		t.Error("removing one name has to leave the other")
	}
}

func testImageDockerSave(t *testing.T, c *Client, base []byte) {
	img := Image(t, func(f *v1.ConfigFile) {
		f.Config.Entrypoint = []string{"/bin/workload", "ls", "/data"}
		f.Config.User = "alice"
	}, base)
	tag, err := name.NewTag("docker.io/example/saved:1")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ImportTar(b.Bytes(), ""); err != nil {
		t.Fatal(err)
	}
	if got := imageNamed(t, c, "example/saved:1"); got.GetUsername() != "alice" || got.GetUid() != nil {
		t.Errorf("got %v", got)
	}
	out := c.Output(c.Sandbox(nil), func(p *cri.ContainerConfig) { p.Image.Image = "example/saved:1" })
	if out != "keep\nold\n" {
		t.Errorf("got %q", out)
	}
}

func testImageWhiteouts(t *testing.T, c *Client, base []byte) {
	upper := Layer(t, Entry{Name: "data/.wh.old"}, Entry{Name: "data/new", Body: "new"},
		Entry{Name: "opaque/", Type: tar.TypeDir}, Entry{Name: "opaque/upper", Body: "y"}, Entry{Name: "opaque/.wh..wh..opq"},
		Entry{Name: "data/link", Link: "data/keep", Type: tar.TypeLink})
	img := Image(t, func(f *v1.ConfigFile) { f.Config.Entrypoint = []string{"/bin/workload", "ls"} }, base, upper)
	if _, err := c.ImportTar(OCIArchive(t, map[string]v1.Image{"example/white:1": img}), ""); err != nil {
		t.Fatal(err)
	}
	c = c.In(t)
	sb := c.Sandbox(nil)
	use := func(p *cri.ContainerConfig) { p.Image.Image = "example/white:1" }
	if out := c.Output(sb, use, "/data"); out != "keep\nlink\nnew\n" {
		t.Errorf("/data: got %q", out)
	}
	if out := c.Output(sb, use, "/opaque"); out != "upper\n" {
		t.Errorf("/opaque: got %q", out)
	}
}

func testImageMalicious(t *testing.T, c *Client) {
	for _, test := range []struct {
		name  string
		layer []byte
	}{
		{"dot dot", Layer(t, Entry{Name: "../../../../tmp/keelson-escape", Body: "x"})},
		{"dot dot inside", Layer(t, Entry{Name: "a/../../b", Body: "x"})},
		{"hard link", Layer(t, Entry{Name: "passwd", Link: "../../../../etc/passwd", Type: tar.TypeLink})},
	} {
		img := Image(t, nil, test.layer)
		_, err := c.ImportTar(OCIArchive(t, map[string]v1.Image{"example/bad:1": img}), "")
		wantCode(t, test.name, err, codes.InvalidArgument)
	}
	// A link that leads out leads to the image's own root.
	img := Image(t, nil, Layer(t, Entry{Name: "out", Link: "/../../../../tmp", Type: tar.TypeSymlink}, Entry{Name: "tmp/", Type: tar.TypeDir}, Entry{Name: "out/keelson-escape", Body: "x"}))
	if _, err := c.ImportTar(OCIArchive(t, map[string]v1.Image{"example/link:1": img}), ""); err != nil {
		t.Errorf("a link within the image: %v", err)
	}
	if imageNamed(t, c, "example/bad:1") != nil {
		t.Error("a refused image is there")
	}
}

func testImageDamaged(t *testing.T, c *Client, archive []byte) {
	fresh := Image(t, nil, Layer(t, Entry{Name: "bin", Body: string(noise(1 << 20))}))
	damaged := OCIArchive(t, map[string]v1.Image{"": fresh})
	damaged[len(damaged)/2] ^= 0xff
	for _, test := range []struct {
		name string
		data []byte
	}{{"bit flipped", damaged}, {"cut off", archive[:len(archive)/2]}, {"empty", nil}, {"no archive", []byte("hello")}} {
		if _, err := c.ImportTar(test.data, "example/damaged:1"); err == nil {
			t.Errorf("%s: import succeeded", test.name)
		}
	}
	if imageNamed(t, c, "example/damaged:1") != nil {
		t.Error("a damaged image is there")
	}
}

func testImagePull(t *testing.T, c *Client) {
	_, err := c.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "127.0.0.1:1/no/such:v1"}})
	wantCode(t, "registry that does not answer", err, codes.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "keelson image import") {
		t.Errorf("no advice in: %v", err)
	}
	_, err = c.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "Not A Name"}})
	wantCode(t, "bad name", err, codes.InvalidArgument)
}

func testImageRemove(t *testing.T, c *Client) {
	id := imageNamed(t, c, "example/white:1").GetId()
	for range 2 {
		removeImage(t, c, id)
	}
	if imageNamed(t, c, "example/white:1") != nil {
		t.Error("a removed image is there")
	}
	list, err := c.ListImages(t.Context(), &cri.ListImagesRequest{Filter: &cri.ImageFilter{Image: &cri.ImageSpec{Image: ImageName}}})
	if err != nil || len(list.GetImages()) != 1 {
		t.Errorf("ListImages: got %v, %v", list, err)
	}
}

// noise is what does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
