package runtime

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/runtime/internal/images"
	"keelson.dev/keelson/plugins/runtime/internal/oci"
	runtimev1 "keelson.dev/keelson/proto/runtime/v1"
)

// imageService is CRI's ImageService.
type imageService struct {
	cri.UnimplementedImageServiceServer
	*Server
}

func criImage(img *images.Image) *cri.Image {
	uid, name := oci.ImageUser(img.Config.Config.User)
	return &cri.Image{Id: img.ID, RepoTags: img.References, RepoDigests: img.Digests, Size: img.Size, Uid: uid, Username: name,
		Spec: &cri.ImageSpec{Image: img.ID}}
}

func (s *imageService) list(filter *cri.ImageFilter) []*cri.Image {
	var out []*cri.Image
	if ref := filter.GetImage().GetImage(); ref != "" {
		if img, err := s.images.Get(ref); err == nil {
			out = append(out, criImage(img))
		}
		return out
	}
	for _, img := range s.images.List() {
		out = append(out, criImage(img))
	}
	return out
}

// ListImages lists images, or the one that the filter names.
func (s *imageService) ListImages(_ context.Context, req *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	return &cri.ListImagesResponse{Images: s.list(req.GetFilter())}, nil
}

// StreamImages lists images in parts.
func (s *imageService) StreamImages(req *cri.StreamImagesRequest, stream grpc.ServerStreamingServer[cri.StreamImagesResponse]) error {
	for part := range slices.Chunk(s.list(req.GetFilter()), streamPart) {
		if err := stream.Send(&cri.StreamImagesResponse{Images: part}); err != nil {
			return err
		}
	}
	return nil
}

// ImageStatus answers an image, or none.
func (s *imageService) ImageStatus(_ context.Context, req *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	if req.GetImage().GetImage() == "" {
		return nil, status.Error(codes.InvalidArgument, "the request names no image")
	}
	img, err := s.images.Get(req.GetImage().GetImage())
	if err != nil {
		return &cri.ImageStatusResponse{}, nil //nolint:nilerr // CRI: absent is an answer
	}
	out := &cri.ImageStatusResponse{Image: criImage(img)}
	if req.GetVerbose() {
		data, err := json.Marshal(map[string]any{"imageSpec": img.Config, "layers": img.Layers})
		if err != nil {
			return nil, err
		}
		out.Info = map[string]string{"info": string(data)}
	}
	return out, nil
}

// PullImage pulls an image from its registry.
func (s *imageService) PullImage(ctx context.Context, req *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	auth, err := authenticator(req.GetAuth())
	if err != nil {
		return nil, rpcError(err)
	}
	begin := time.Now()
	opts := images.PullOptions{
		Auth:     auth,
		Mirrors:  func(registry string) []string { return s.config.Registries[registry].Mirrors },
		Insecure: func(registry string) bool { return s.config.Registries[registry].Insecure },
	}
	if s.config.DockerConfig != "" {
		opts.Keychain = keychain{s.config.DockerConfig}
	}
	img, err := s.images.Pull(ctx, req.GetImage().GetImage(), opts)
	if err != nil {
		return nil, rpcError(err)
	}
	s.metrics.observe("pull_image", begin)
	return &cri.PullImageResponse{ImageRef: img.ID}, nil
}

// authenticator turns CRI's credentials into the library's; nil for none.
func authenticator(auth *cri.AuthConfig) (authn.Authenticator, error) {
	if auth == nil {
		return nil, nil
	}
	config := authn.AuthConfig{Username: auth.GetUsername(), Password: auth.GetPassword(), IdentityToken: auth.GetIdentityToken(), RegistryToken: auth.GetRegistryToken()}
	if auth.GetAuth() != "" {
		user, password, err := basicAuth(auth.GetAuth())
		if err != nil {
			return nil, err
		}
		config.Username, config.Password = user, password
	}
	if config == (authn.AuthConfig{}) {
		return nil, nil
	}
	return authn.FromConfig(config), nil
}

func basicAuth(encoded string) (user, password string, err error) {
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", "", fmt.Errorf("registry credentials: auth is not base64: %w", images.ErrInvalid)
	}
	user, password, ok := strings.Cut(string(data), ":")
	if !ok {
		return "", "", fmt.Errorf("registry credentials: auth is not user:password: %w", images.ErrInvalid)
	}
	return user, strings.TrimRight(password, "\x00"), nil
}

// keychain reads a file in Docker's form at each pull, so that a change counts at
// once.
type keychain struct{ file string }

// Resolve answers the credentials for a registry, or anonymous ones.
func (k keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	data, err := os.ReadFile(k.file)
	if errors.Is(err, os.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read registry credentials: %w", err)
	}
	var config struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("read registry credentials in %s: %w", k.file, err)
	}
	for host, auth := range config.Auths {
		host, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://"), "/")
		if host == target.RegistryStr() {
			return authn.FromConfig(auth), nil
		}
	}
	return authn.Anonymous, nil
}

// RemoveImage removes a name, or an image with all its names.
func (s *imageService) RemoveImage(_ context.Context, req *cri.RemoveImageRequest) (*cri.RemoveImageResponse, error) {
	if req.GetImage().GetImage() == "" {
		return nil, status.Error(codes.InvalidArgument, "the request names no image")
	}
	if err := s.images.Remove(req.GetImage().GetImage()); err != nil {
		return nil, rpcError(err)
	}
	return &cri.RemoveImageResponse{}, nil
}

// ImageFsInfo tells what images and containers take on disk.
func (s *imageService) ImageFsInfo(ctx context.Context, _ *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	bytes, inodes, err := s.images.Usage(ctx)
	if err != nil {
		return nil, rpcError(err)
	}
	now := time.Now().UnixNano()
	fs := func(sub string, bytes, inodes uint64) []*cri.FilesystemUsage {
		return []*cri.FilesystemUsage{{Timestamp: now, FsId: &cri.FilesystemIdentifier{Mountpoint: filepath.Join(s.dataDir, sub)}, UsedBytes: value(bytes), InodesUsed: value(inodes)}}
	}
	var total diskUsage
	for _, c := range s.selectContainers("", "", nil) {
		usage := s.layerUsage(c)
		total.bytes += usage.bytes
		total.inodes += usage.inodes
	}
	return &cri.ImageFsInfoResponse{ImageFilesystems: fs("images", bytes, inodes), ContainerFilesystems: fs("containers", total.bytes, total.inodes)}, nil
}

// importService is our own contract beside CRI.
type importService struct {
	runtimev1.UnimplementedImageImportServiceServer
	*Server
}

// Import stores the images of an archive.
func (s *importService) Import(stream grpc.ClientStreamingServer[runtimev1.ImportRequest, runtimev1.ImportResponse]) error {
	begin := time.Now()
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return status.Error(codes.InvalidArgument, "the archive is empty")
	}
	if err != nil {
		return err
	}
	list, err := s.images.Import(stream.Context(), &chunkReader{stream: stream, rest: first.GetChunk()}, first.GetName())
	if err != nil {
		return rpcError(err)
	}
	out := &runtimev1.ImportResponse{}
	for _, img := range list {
		out.Images = append(out.Images, &runtimev1.ImportedImage{Reference: img.Reference, Digest: img.Digest, Id: img.ID, Size: img.Size})
	}
	s.metrics.observe("import_image", begin)
	return stream.SendAndClose(out)
}

// chunkReader reads the stream's bytes.
type chunkReader struct {
	stream grpc.ClientStreamingServer[runtimev1.ImportRequest, runtimev1.ImportResponse]
	rest   []byte
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		req, err := r.stream.Recv()
		if err != nil {
			return 0, err
		}
		r.rest = req.GetChunk()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
