package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// TakeHugetlb mounts the hugetlb controller as v1 on a hybrid machine where the
// unified hierarchy has it: crun before 1.9 refuses to run there otherwise. It
// answers the mount point when it mounted, and "" when there was nothing to do.
func (h *Host) TakeHugetlb() (string, error) {
	if h.V2 || h.Unified == "" || h.V1["hugetlb"] != "" {
		return "", nil
	}
	data, err := os.ReadFile(filepath.Join(h.Unified, "cgroup.controllers"))
	if err != nil || !slices.Contains(strings.Fields(string(data)), "hugetlb") {
		return "", nil //nolint:nilerr // no such controller: nothing to take
	}
	point := filepath.Join(filepath.Dir(h.Unified), "hugetlb")
	if err := os.MkdirAll(point, 0o755); err != nil {
		return "", fmt.Errorf("take the hugetlb controller: %w", err)
	}
	if err := unix.Mount("hugetlb", point, "cgroup", 0, "hugetlb"); err != nil {
		return "", errors.Join(fmt.Errorf("mount the hugetlb controller on %s: %w", point, err), os.Remove(point))
	}
	h.V1["hugetlb"] = point
	return point, nil
}

// GiveHugetlb undoes TakeHugetlb.
func GiveHugetlb(point string) error {
	if err := unix.Unmount(point, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	if err := os.Remove(point); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
