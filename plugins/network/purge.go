package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/nft"
)

// warnOfDrops tells of chains of others that drop forwarded packets: an accept in our
// table cannot overrule them.
func (s *Server) warnOfDrops() {
	conn, err := nft.NewConn()
	if err != nil {
		return
	}
	chains, err := conn.ListChains()
	if err != nil {
		return
	}
	for _, c := range chains {
		if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter &&
			c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			s.env.Log.Warn("Another firewall drops forwarded packets by default; allow those of the pod network there",
				"table", c.Table.Name, "chain", c.Name, "link", bridgeName)
		}
	}
}

// Purge removes all that the plugin has put into the kernel and on disk: links, routes
// (they go with their links, or by their protocol number), tables, sysctls, files. The
// plugin must not be running. It goes on after errors and returns them all.
func Purge(ctx context.Context, dataDir, runDir string, log *slog.Logger) error {
	var errs []error
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("purge network: %w", err)
	}
	defer h.Close()
	links, err := retry(h.LinkList)
	errs = append(errs, err)
	for _, l := range links {
		if ctx.Err() != nil {
			return fmt.Errorf("purge network: %w", ctx.Err())
		}
		if name := l.Attrs().Name; l.Type() == "veth" && strings.HasPrefix(name, linkPrefix) && len(name) == 15 {
			errs = append(errs, deleteLink(h, name))
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := retry(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		errs = append(errs, err)
		for _, r := range routes {
			if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("delete route to %s: %w", r.Dst, err))
			}
		}
	}
	errs = append(errs, deleteLink(h, vxlanName), deleteLink(h, bridgeName))
	errs = append(errs, nft.DeleteTable(nftables.TableFamilyIPv4, tableName), nft.DeleteTable(nftables.TableFamilyIPv6, tableName))
	former := map[string]string{}
	if _, err := readJSON(filepath.Join(dataDir, sysctlsFile), &former); err != nil {
		errs = append(errs, err)
	}
	for name, value := range former {
		if err := writeSysctl(name, value); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, kit.RemoveDirs(dataDir, runDir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("purge network: %w", err)
	}
	log.Info("Pod network removed", "sysctlsRestored", len(former))
	return nil
}
