package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The kernel takes a transaction in one message, and answers each of its commands: a
// node with 5000 services sends 6 MB and gets 30000 answers of about 1 kB.
const (
	sendBuffer    = 64 << 20
	receiveBuffer = 64 << 20
)

// elementsPerMessage keeps the list of elements below the 64 KiB of an attribute; the
// longest element (an IPv6 key with a chain's name) takes less than 200 bytes.
const elementsPerMessage = 300

// NewConn is a connection for one transaction (commands, then Flush), or for listing.
// Its sockets live as long as one operation, so nothing has to be closed.
func NewConn() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(sendBuffer), c.SetReadBuffer(receiveBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("open an nftables socket: %w", err)
	}
	return conn, nil
}

// ReplaceTable removes the table if it is there, and adds it anew, empty; both in the
// transaction that conn collects, so that packets see either the old or the new one.
func ReplaceTable(conn *nftables.Conn, table *nftables.Table) {
	conn.AddTable(table) // deleting what is not there would fail the transaction
	conn.DelTable(table)
	conn.AddTable(table)
}

// DeleteTable removes a table, if it is there.
func DeleteTable(family nftables.TableFamily, name string) error {
	conn, err := NewConn()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: family, Name: name}
	conn.AddTable(table)
	conn.DelTable(table)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

// AddElements adds elements to a set, in as many messages as it takes.
func AddElements(conn *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	for len(elements) > 0 {
		n := min(len(elements), elementsPerMessage)
		if err := conn.SetAddElements(set, elements[:n]); err != nil {
			return fmt.Errorf("add elements to nftables set %s: %w", set.Name, err)
		}
		elements = elements[n:]
	}
	return nil
}

// DeleteElements deletes elements from a set, in as many messages as it takes.
func DeleteElements(conn *nftables.Conn, set *nftables.Set, elements []nftables.SetElement) error {
	for len(elements) > 0 {
		n := min(len(elements), elementsPerMessage)
		if err := conn.SetDeleteElements(set, elements[:n]); err != nil {
			return fmt.Errorf("delete elements from nftables set %s: %w", set.Name, err)
		}
		elements = elements[n:]
	}
	return nil
}
