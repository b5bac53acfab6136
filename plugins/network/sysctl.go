package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sysctlDir is where the kernel's settings of this network namespace are.
const sysctlDir = "/proc/sys/net"

func readSysctl(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(sysctlDir, name))
	if err != nil {
		return "", fmt.Errorf("read sysctl net/%s: %w", name, err)
	}
	return strings.TrimSpace(string(data)), nil
}

func writeSysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join(sysctlDir, name), []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl net/%s to %s: %w", name, value, err)
	}
	return nil
}

// setSysctl sets a machine-wide setting, and remembers on disk what was there before
// the first change, for Purge.
func setSysctl(dataDir, name, value string) error {
	old, err := readSysctl(name)
	if err != nil || old == value {
		return err
	}
	path := filepath.Join(dataDir, sysctlsFile)
	former := map[string]string{}
	if _, err := readJSON(path, &former); err != nil {
		return err
	}
	if _, known := former[name]; !known {
		former[name] = old
		if err := writeJSON(path, former); err != nil {
			return err
		}
	}
	return writeSysctl(name, value)
}

// forward turns forwarding on. A node that forwards IPv6 stops taking its own routes
// from router advertisements unless accept_ra is 2.
func forward(dataDir string, v6 bool, uplink string) error {
	if err := setSysctl(dataDir, "ipv4/ip_forward", "1"); err != nil {
		return err
	}
	// Pods reach each other by way of the gateway, on purpose. The kernel would advise
	// them to go direct, and while it does, its ICMP errors to them fall to the rate limit
	// that redirects use up: refused UDP would look like lost UDP. A link obeys the
	// greater of its own value (see ensureBridge) and this one.
	if err := setSysctl(dataDir, "ipv4/conf/all/send_redirects", "0"); err != nil || !v6 {
		return err
	}
	if uplink != "" {
		if ra, err := readSysctl("ipv6/conf/" + uplink + "/accept_ra"); err == nil && ra == "1" {
			if err := setSysctl(dataDir, "ipv6/conf/"+uplink+"/accept_ra", "2"); err != nil {
				return err
			}
		}
	}
	return setSysctl(dataDir, "ipv6/conf/all/forwarding", "1")
}
