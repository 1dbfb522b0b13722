package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// filterTable is the name of our table of nftables. Nobody else's is touched.
const filterTable = "inet balancer_failover"

// filter cuts tors off the network by dropping packets. Within 127.0.0.0/8 tor takes
// no source address from its torrc, so a tor is told by the group it runs under.
type filter struct{}

// newFilter makes our table, in place of one that an earlier run may have left. The
// first packet of a connection marks it, since a packet that comes in over loopback
// does not tell its group.
func newFilter(ctx context.Context, groups []uint32) (*filter, error) {
	var marks strings.Builder
	for _, group := range groups {
		fmt.Fprintf(&marks, "\t\tmeta skgid %d ct mark set %d\n", group, group)
	}
	const text = `table %[1]s
delete table %[1]s
table %[1]s {
	set cut { type mark; }
	chain output {
		type filter hook output priority 0;
%[2]s		ct mark @cut drop
	}
	chain input {
		type filter hook input priority 0;
		ct mark @cut drop
	}
}
`
	return new(filter), nft(ctx, fmt.Sprintf(text, filterTable, marks.String()))
}

// cut drops all packets from and to the tors of a group.
func (*filter) cut(ctx context.Context, group uint32) error {
	return nft(ctx, fmt.Sprintf("add element %s cut { %d }\n", filterTable, group))
}

// heal ends what cut began.
func (*filter) heal(ctx context.Context, group uint32) error {
	return nft(ctx, fmt.Sprintf("delete element %s cut { %d }\n", filterTable, group))
}

// close removes the table.
func (*filter) close() error {
	return nft(context.Background(), "delete table "+filterTable+"\n")
}

// nft has nftables do what text says, all of it or nothing.
func nft(ctx context.Context, text string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("setting the packet filter (Debian package nftables, as root): %w\n%s", err, said)
	}
	return nil
}
