package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"onionbalancer/internal/owner"
	unixpeer "onionbalancer/internal/peer"
	"onionbalancer/internal/printable"
)

// peer is who listens at the other end of a connection, as far as that can be
// known without asking it.
type peer struct {
	// doubt says why what it tells of itself is not believed. Without one it is
	// root, our own user, or the user whom the socket's place belongs to.
	doubt  error
	uid    int  // -1 if unknown
	tcp    bool // else a unix socket
	remote bool // on another machine
}

// socketConn is a connection to the unix socket at path. The path that the
// kernel gives back would be of the other side's choosing.
type socketConn struct {
	*net.UnixConn
	path string
}

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return socketConn{conn.(*net.UnixConn), path}, nil
}

// identify tells who is at the other end.
func identify(conn net.Conn) peer {
	if s, ok := conn.(socketConn); ok {
		uid, err := unixpeer.UID(s)
		if err != nil {
			return peer{uid: -1, doubt: fmt.Errorf("who answers there cannot be told: %w", err)}
		}
		return peer{uid: uid, doubt: doubt(s.path, uid)}
	}
	if conn.RemoteAddr().Network() == "pipe" { // net.Pipe: this very process
		return peer{uid: os.Geteuid()}
	}
	address, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	return peer{
		doubt:  errors.New("over TCP anybody could answer in tor's place"),
		uid:    -1,
		tcp:    true,
		remote: err != nil || !address.Addr().Unmap().IsLoopback(),
	}
}

// doubt says why the process of user uid that listens on the socket at path may
// not be tor.
func doubt(path string, uid int) error {
	if believed(uid) {
		return nil
	}
	if err := onlyOf(path, uid); err != nil {
		return fmt.Errorf("user %d answers there, who may not be tor: %w", uid, err)
	}
	return nil
}

// believed tells whether a user can do to us as they like anyway.
func believed(uid int) bool { return uid == 0 || uid == os.Geteuid() }

// onlyOf returns an error if somebody else than root, we and user uid could have
// put the file at path there: neither it nor a directory above it may belong to
// another, and none of the directories may be writable by others.
func onlyOf(path string, uid int) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if _, err := ownedBy(real, uid); err != nil {
		return err
	}
	// Both ways: who can change a link on the way chooses where it leads.
	for _, dir := range []string{filepath.Dir(real), filepath.Dir(path)} {
		for {
			info, err := ownedBy(dir, uid)
			if err != nil {
				return err
			}
			if info.Mode().Perm()&0o022 != 0 {
				return fmt.Errorf("%s can be written by others", printable.Text(dir))
			}
			above := filepath.Dir(dir)
			if above == dir {
				break
			}
			dir = above
		}
	}
	return nil
}

func ownedBy(path string, uid int) (os.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if of := owner.Of(info); of != uid && !believed(of) {
		return nil, fmt.Errorf("%s belongs to user %d", printable.Text(path), of)
	}
	return info, nil
}
