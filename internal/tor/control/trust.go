package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"onionbalancer/internal/openfile"
	"onionbalancer/internal/owner"
	unixpeer "onionbalancer/internal/peer"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
)

// peer is the process at the other end of a connection, as far as that can be
// known without asking it.
type peer struct {
	// doubt says why its claims about itself are not trusted. Without one it is
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

// identify identifies the other end.
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

// onlyOf returns an error if a user other than root, ourselves and uid could have
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

// maxSecret is how long the file of a secret may be, in bytes.
const maxSecret = 4096

// readCookie reads tor's cookie. The other side proves that it knows the cookie,
// which shows that it is tor only if no other user can have written or read the
// file. A file that it named itself must therefore belong to a user we trust; one
// that the operator chose may belong to tor's user, whom we do not know over TCP.
func readCookie(path string, chosen bool, who peer) ([]byte, error) {
	cookie, info, err := readSecret(path)
	if err != nil {
		return nil, explainCookie(err)
	}
	of := owner.Of(info)
	if !believed(of) && !(who.doubt == nil && of == who.uid) {
		if !chosen {
			return nil, advise(fmt.Errorf("the cookie file %s belongs to user %d, and it is who answers there that names it", printable.Text(path), of),
				"if that is tor's user, set cookie_file = %q", path)
		}
		if err := onlyOf(path, of); err != nil {
			return nil, advise(fmt.Errorf("the cookie file %s belongs to user %d, and not only that user could put it there: %w", printable.Text(path), of, err),
				"close that directory to others, or have balancer and tor run as one user")
		}
	}
	if len(cookie) != cookieLength {
		return nil, fmt.Errorf("the cookie file %s has %d bytes, want %d", printable.Text(path), len(cookie), cookieLength)
	}
	return cookie, nil
}

// explainCookie adds how to fix it.
func explainCookie(err error) error {
	err = fmt.Errorf("reading tor's cookie: %w", err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return advise(err, "add balancer's user to the group that may read it "+
			"(Debian: adduser USER debian-tor; in torrc: CookieAuthFileGroupReadable 1), or set password_file")
	case errors.Is(err, fs.ErrNotExist):
		return advise(err, "if tor runs elsewhere or in a container, set cookie_file to where the file is seen from here, or set password_file")
	}
	return err
}

// A hash as HashedControlPassword has it, which is not the password.
var passwordHash = regexp.MustCompile(`(?i)^(HashedControlPassword\s+)?["']?16:[0-9a-f]{58}["']?$`)

// readPassword reads the first line of the file, if who listens may hear it.
func readPassword(path string, who peer) ([]byte, error) {
	if !who.tcp && who.doubt != nil {
		return nil, advise(fmt.Errorf("the password is not told: %w", who.doubt), "if it is tor, close that directory to others")
	}
	text, info, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("reading password_file: %w", err)
	}
	if of := owner.Of(info); !believed(of) && !(who.doubt == nil && of == who.uid) {
		return nil, advise(fmt.Errorf("reading password_file: %s belongs to user %d, who can replace it", path, of),
			"run as root: chown %d %s", os.Geteuid(), printable.Text(shell.Quote(path)))
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("reading password_file: the first line of %s is empty", path)
	case passwordHash.Match(line):
		return nil, advise(fmt.Errorf("reading password_file: %s holds the hash that belongs into torrc", path),
			"write the password itself into it, the one that was given to tor --hash-password")
	}
	return line, nil
}

// sendPassword explains a refusal by what people write around a password.
func (l *controlConn) sendPassword(password []byte) error {
	err := l.sendSecret(password)
	var refused *ReplyError
	if !errors.As(err, &refused) {
		return err
	}
	text := string(password)
	trimmed := strings.Trim(text, " \t")
	first, last := trimmed[:min(1, len(trimmed))], trimmed[max(0, len(trimmed)-1):]
	switch {
	case len(trimmed) > 1 && first == last && strings.Contains(`"'`, first):
		return advise(err, "there are quotes around the password in password_file: remove them")
	case trimmed != text:
		return advise(err, "the password in password_file begins or ends with a blank: remove it")
	}
	return advise(err, "password_file must hold the password whose hash (tor --hash-password) is HashedControlPassword in torrc")
}

// readSecret reads the file of a secret, which others may neither read nor
// write. Its group may read it: that is how tor and secrets' managers share one.
func readSecret(path string) ([]byte, fs.FileInfo, error) {
	f, info, err := openfile.Regular(path)
	if err != nil {
		var named *fs.PathError
		if errors.As(err, &named) {
			err = fmt.Errorf("opening %s: %w", printable.Text(path), named.Err)
		}
		return nil, nil, err
	}
	defer f.Close()
	if info.Mode().Perm()&0o026 != 0 {
		return nil, nil, advise(fmt.Errorf("others than its owner can change %s, or others than its group read it (mode %04o)", printable.Text(path), info.Mode().Perm()),
			"run: chmod g-w,o-rwx %s", printable.Text(shell.Quote(path)))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", printable.Text(path), err)
	}
	return text, info, nil
}
