package oci

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/runtime/internal/rootfs"
)

// maxAccounts bounds /etc/passwd and /etc/group of an image, in bytes.
const maxAccounts = 4 << 20

type account struct {
	name     string
	uid, gid uint32
	home     string
}

type group struct {
	name    string
	gid     uint32
	members []string
}

func readAccounts(root string) []account {
	data, err := rootfs.ReadIn(root, "/etc/passwd", maxAccounts)
	if err != nil {
		return nil // an image without accounts is a valid one
	}
	var out []account
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 6 {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			out = append(out, account{f[0], uint32(uid), uint32(gid), f[5]})
		}
	}
	return out
}

func readGroups(root string) []group {
	data, err := rootfs.ReadIn(root, "/etc/group", maxAccounts)
	if err != nil {
		return nil
	}
	var out []group
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			out = append(out, group{f[0], uint32(gid), strings.Split(f[3], ",")})
		}
	}
	return out
}

// user resolves who the container runs as, and the home directory: the pod's
// number or name, else the image's "user[:group]".
func (in Input) user(security *cri.LinuxContainerSecurityContext) (specs.User, string, error) {
	accounts, groups := readAccounts(in.Rootfs), readGroups(in.Rootfs)
	name, groupName, _ := strings.Cut(in.Image.Config.User, ":")
	switch {
	case security.GetRunAsUser() != nil:
		name = strconv.FormatInt(security.GetRunAsUser().GetValue(), 10)
		groupName = ""
	case security.GetRunAsUsername() != "":
		name = security.GetRunAsUsername()
		groupName = ""
	case security.GetRunAsGroup() != nil && name == "":
		return specs.User{}, "", fmt.Errorf("run_as_group without run_as_user: %w", ErrInvalid)
	}
	if name == "" {
		name = "0"
	}
	who, err := findAccount(accounts, name)
	if err != nil {
		return specs.User{}, "", err
	}
	switch {
	case security.GetRunAsGroup() != nil:
		who.gid = uint32(security.GetRunAsGroup().GetValue())
	case groupName != "":
		if who.gid, err = findGroup(groups, groupName); err != nil {
			return specs.User{}, "", err
		}
	}
	user := specs.User{UID: who.uid, GID: who.gid}
	add := func(gid uint32) {
		if !slices.Contains(user.AdditionalGids, gid) {
			user.AdditionalGids = append(user.AdditionalGids, gid)
		}
	}
	add(who.gid)
	for _, gid := range security.GetSupplementalGroups() {
		add(uint32(gid))
	}
	if security.GetSupplementalGroupsPolicy() == cri.SupplementalGroupsPolicy_Merge && who.name != "" {
		for _, g := range groups {
			if slices.Contains(g.members, who.name) {
				add(g.gid)
			}
		}
	}
	if who.home == "" {
		who.home = "/"
	}
	return user, who.home, nil
}

// findAccount takes a name or a number; a number need not be in the image.
func findAccount(accounts []account, name string) (account, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		for _, a := range accounts {
			if a.uid == uint32(n) {
				return a, nil
			}
		}
		return account{uid: uint32(n)}, nil
	}
	for _, a := range accounts {
		if a.name == name {
			return a, nil
		}
	}
	if name == "root" {
		return account{name: "root", home: "/root"}, nil
	}
	return account{}, fmt.Errorf("user %q is not in the image's /etc/passwd: %w", name, ErrInvalid)
}

func findGroup(groups []group, name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	for _, g := range groups {
		if g.name == name {
			return g.gid, nil
		}
	}
	if name == "root" {
		return 0, nil
	}
	return 0, fmt.Errorf("group %q is not in the image's /etc/group: %w", name, ErrInvalid)
}

// ImageUser answers the uid or the name that an image runs as, as CRI's Image
// has them.
func ImageUser(user string) (*cri.Int64Value, string) {
	name, _, _ := strings.Cut(user, ":")
	if name == "" {
		return &cri.Int64Value{}, ""
	}
	if uid, err := strconv.ParseInt(name, 10, 64); err == nil {
		return &cri.Int64Value{Value: uid}, ""
	}
	return nil, name
}
