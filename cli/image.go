package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/plugins/kit"
	imagesv1 "keelson.dev/keelson/proto/runtime/v1"
)

func newImageCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var d dirs
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Import, list and remove this node's container images",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&d.Run, "run-dir", defaultRunDir, "Folder of the node's sockets")
	cmd.AddCommand(newImageImport(streams, &d), newImageList(streams, &d), newImageRemove(streams, &d))
	return cmd
}

func newImageImport(streams genericiooptions.IOStreams, d *dirs) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE...",
		Short: "Import images from OCI or docker archives (- reads standard input)",
		Example: templates.Examples(`
			keelson image import app.tar
			docker save app:v1 | keelson image import -`),
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRuntime(d.Run, func(conn *grpc.ClientConn) error {
				for _, name := range args {
					if err := importFile(cmd.Context(), conn, streams, name); err != nil {
						return fmt.Errorf("import %s: %w", name, err)
					}
				}
				return nil
			})
		},
	}
}

func importFile(ctx context.Context, conn *grpc.ClientConn, streams genericiooptions.IOStreams, name string) error {
	in := streams.In
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	stream, err := imagesv1.NewImageImportServiceClient(conn).Import(ctx)
	if err != nil {
		return plain(err)
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 && stream.Send(&imagesv1.ImportRequest{Chunk: buf[:n]}) != nil {
			break // the answer below has the reason
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return plain(err)
	}
	for _, image := range answer.GetImages() {
		fmt.Fprintf(streams.Out, "%s %s\n", image.GetReference(), image.GetDigest())
	}
	return nil
}

func newImageList(streams genericiooptions.IOStreams, d *dirs) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List this node's images",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withRuntime(d.Run, func(conn *grpc.ClientConn) error {
				answer, err := runtimeapi.NewImageServiceClient(conn).ListImages(cmd.Context(), &runtimeapi.ListImagesRequest{})
				if err != nil {
					return plain(err)
				}
				return printImages(streams.Out, answer.GetImages())
			})
		},
	}
}

func printImages(out io.Writer, images []*runtimeapi.Image) error {
	rows := make([]string, 0, len(images))
	for _, image := range images {
		id := strings.TrimPrefix(image.GetId(), "sha256:")
		size := resource.NewQuantity(int64(image.GetSize()), resource.BinarySI)
		names := image.GetRepoTags()
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		for _, name := range names {
			rows = append(rows, fmt.Sprintf("%s\t%.12s\t%dMi\n", name, id, size.Value()>>20))
		}
	}
	slices.Sort(rows)
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintf(w, "IMAGE\tID\tSIZE\n%s", strings.Join(rows, ""))
	return w.Flush()
}

func newImageRemove(streams genericiooptions.IOStreams, d *dirs) *cobra.Command {
	return &cobra.Command{
		Use:     "rm IMAGE...",
		Aliases: []string{"remove"},
		Short:   "Remove images from this node",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRuntime(d.Run, func(conn *grpc.ClientConn) error {
				images := runtimeapi.NewImageServiceClient(conn)
				for _, name := range args {
					spec := &runtimeapi.ImageSpec{Image: name}
					found, err := images.ImageStatus(cmd.Context(), &runtimeapi.ImageStatusRequest{Image: spec})
					if err != nil {
						return plain(err)
					}
					if found.GetImage() == nil {
						return fmt.Errorf("no image %q on this node; keelson image list shows all", name)
					}
					if _, err := images.RemoveImage(cmd.Context(), &runtimeapi.RemoveImageRequest{Image: spec}); err != nil {
						return plain(err)
					}
					fmt.Fprintf(streams.Out, "%s removed\n", name)
				}
				return nil
			})
		},
	}
}

// withRuntime calls do with a connection to the node's runtime plugin.
func withRuntime(runDir string, do func(*grpc.ClientConn) error) error {
	if err := needRoot("image"); err != nil {
		return err
	}
	path := filepath.Join(runDir, "runtime.sock")
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s: no runtime is serving there: run keelson up on this node, or give --run-dir", path)
	}
	conn, err := kit.DialSocket(path)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return do(conn)
}

// plain takes gRPC's wrapping off an error meant for people.
func plain(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	if s.Code() == codes.Unavailable {
		return fmt.Errorf("the runtime plugin does not answer (%s): keelson plugins list tells its state", s.Message())
	}
	return errors.New(s.Message())
}
