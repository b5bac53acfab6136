package runtimetest

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Empty is a runtime that has nothing and says that it pulls anything: for tests of what
// stands before a runtime.
type Empty struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer
}

// Register registers its services.
func (e Empty) Register(s *grpc.Server) {
	cri.RegisterRuntimeServiceServer(s, e)
	cri.RegisterImageServiceServer(s, e)
}

// Version implements CRI.
func (Empty) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "empty", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

// Status implements CRI.
func (Empty) Status(context.Context, *cri.StatusRequest) (*cri.StatusResponse, error) {
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
		{Type: cri.RuntimeReady, Status: true}, {Type: cri.NetworkReady, Message: "there is none"},
	}}}, nil
}

// ListPodSandbox implements CRI.
func (Empty) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{}, nil
}

// ListContainers implements CRI.
func (Empty) ListContainers(context.Context, *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{}, nil
}

// PodSandboxStatus implements CRI.
func (Empty) PodSandboxStatus(context.Context, *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	return nil, status.Error(codes.NotFound, "there is none")
}

// ContainerStatus implements CRI.
func (Empty) ContainerStatus(context.Context, *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	return nil, status.Error(codes.NotFound, "there is none")
}

// RemovePodSandbox implements CRI.
func (Empty) RemovePodSandbox(context.Context, *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	return &cri.RemovePodSandboxResponse{}, nil
}

// RemoveContainer implements CRI.
func (Empty) RemoveContainer(context.Context, *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	return &cri.RemoveContainerResponse{}, nil
}

// ListImages implements CRI.
func (Empty) ListImages(context.Context, *cri.ListImagesRequest) (*cri.ListImagesResponse, error) {
	return &cri.ListImagesResponse{}, nil
}

// ImageStatus implements CRI.
func (Empty) ImageStatus(context.Context, *cri.ImageStatusRequest) (*cri.ImageStatusResponse, error) {
	return &cri.ImageStatusResponse{}, nil
}

// PullImage implements CRI.
func (Empty) PullImage(_ context.Context, r *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	return &cri.PullImageResponse{ImageRef: r.GetImage().GetImage()}, nil
}

// ImageFsInfo implements CRI.
func (Empty) ImageFsInfo(context.Context, *cri.ImageFsInfoRequest) (*cri.ImageFsInfoResponse, error) {
	return &cri.ImageFsInfoResponse{ImageFilesystems: []*cri.FilesystemUsage{{FsId: &cri.FilesystemIdentifier{Mountpoint: "/"}}}}, nil
}
