package process

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"onionbalancer/internal/filelock"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/peer"
	"onionbalancer/internal/tor/control"
)

// maxSocketPath is how long the path of a unix socket may be, in bytes: the
// kernel's 108 less the zero at the end.
const maxSocketPath = 107

// Prefixes of the sockets' names. A random part follows, a different one for
// each Process: a tor that ends late removes its own sockets, not its successor's.
const (
	socketPrefix = "control."
	socksPrefix  = "socks."
)

// The names of files inside Dir.
const (
	dataDir      = "data"
	torrcFile    = "torrc"
	defaultsFile = "torrc-defaults"
	cookieFile   = "cookie"
	ownerFile    = "owner.lock"
	socketLink   = "control" // leads to the control socket of now
)

// files are the paths shared with tor. The paths are absolute; files that we
// make, change or remove ourselves are reached by root.
type files struct {
	dir       string
	root      *os.Root // dir
	socket    string   // control port
	socks     string   // SOCKS port
	socketDir string   // made for the sockets alone; "" when they are in dir
	lock      *os.File
}

// path returns the path of a file in dir.
func (f *files) path(name string) string { return filepath.Join(f.dir, name) }

// prepare makes the directories, locks them, and writes torrc.
func prepare(ctx context.Context, cfg Config) (_ *files, err error) {
	dir, err := filepath.Abs(cfg.Dir)
	if cfg.Dir == "" {
		err = errors.New("no directory given")
	}
	if err != nil {
		return nil, fmt.Errorf("finding tor's directory: %w", err)
	}
	if err := owner.Check(dir); err != nil {
		return nil, err
	}
	f := &files{dir: dir}
	if f.root, err = openPrivate(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.release()
		}
	}()
	data, err := makePrivate(f.root, dataDir)
	if err != nil {
		return nil, err
	}
	_ = data.Close()
	if f.lock, err = f.claim(ctx, cfg.times.stop); err != nil {
		return nil, err
	}
	f.removeLeftovers()
	if err := f.placeSockets(); err != nil {
		return nil, err
	}
	if err := f.write(cfg); err != nil {
		return nil, err
	}
	return f, nil
}

// openPrivate makes a directory if it does not exist, and sets its mode to 0700.
func openPrivate(dir string) (*os.Root, error) {
	parent, name := filepath.Dir(dir), filepath.Base(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("making tor's directory: %w", err)
	}
	above, err := os.OpenRoot(parent)
	if err != nil {
		return nil, fmt.Errorf("opening tor's directory: %w", owner.Explain(err, parent))
	}
	defer above.Close()
	return makePrivate(above, name)
}

// makePrivate makes the directory name in root, and removes others' access if it exists:
// tor refuses a control socket where others could reach it. It must be ours, and
// no link to a place outside of root.
func makePrivate(root *os.Root, name string) (made *os.Root, err error) {
	path := filepath.Join(root.Name(), name)
	if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making tor's directory: %w", owner.Explain(err, root.Name()))
	}
	if made, err = root.OpenRoot(name); err != nil {
		return nil, fmt.Errorf("opening tor's directory: %w", owner.Explain(err, path))
	}
	if err := made.Chmod(".", 0o700); err != nil {
		_ = made.Close()
		return nil, fmt.Errorf("closing tor's directory to others: %w", owner.Explain(err, path))
	}
	return made, nil
}

// Running returns how to connect to the tor that another process runs in dir, and
// whether one does. It trusts a tor of our own user or root alone.
func Running(ctx context.Context, dir string) (cfg control.Config, socket string, ok bool) {
	socket, err := os.Readlink(filepath.Join(dir, socketLink))
	if err != nil {
		return cfg, "", false
	}
	if !filepath.IsAbs(socket) {
		socket = filepath.Join(dir, socket)
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := control.DialTarget("unix:" + socket)(ctx)
		if err != nil {
			return nil, err
		}
		if err := peer.Check(conn); err != nil {
			conn.Close()
			return nil, fmt.Errorf("%s: %w", socket, err)
		}
		return conn, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return cfg, "", false
	}
	conn.Close()
	return control.Config{Dial: dial, CookieFile: filepath.Join(dir, cookieFile)}, socket, true
}

// removeLeftovers removes stale sockets of earlier processes.
func (f *files) removeLeftovers() {
	removeSockets(f.root)
	old, err := f.root.Readlink(socketLink)
	_ = f.root.Remove(socketLink)
	if err != nil || !filepath.IsAbs(old) {
		return
	}
	if dir, err := os.OpenRoot(filepath.Dir(old)); err == nil {
		removeSockets(dir)
		_ = dir.Close()
		_ = os.Remove(filepath.Dir(old)) // only if it is empty now
	}
}

// removeSockets removes tor's sockets in a directory.
func removeSockets(root *os.Root) {
	for _, prefix := range []string{socketPrefix, socksPrefix} {
		sockets, _ := fs.Glob(root.FS(), prefix+"*")
		for _, socket := range sockets {
			if info, err := root.Lstat(socket); err == nil && info.Mode()&fs.ModeSocket != 0 {
				_ = root.Remove(socket)
			}
		}
	}
}

// placeSockets finds a directory whose path is short enough for the sockets, and makes
// socketLink point to the control socket.
func (f *files) placeSockets() error {
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("naming tor's control socket: %w", err)
	}
	suffix := hex.EncodeToString(random[:])
	name := socketPrefix + suffix
	target := name
	if f.socket = f.path(name); len(f.socket) > maxSocketPath {
		dir, err := os.MkdirTemp("", "balancer-tor-") // 0700
		if err != nil {
			return fmt.Errorf("making a directory for tor's control socket: %w", err)
		}
		f.socketDir, f.socket = dir, filepath.Join(dir, name)
		target = f.socket
	}
	if len(f.socket) > maxSocketPath {
		return fmt.Errorf("placing tor's control socket: %s is too long for a socket too: set TMPDIR to a short path", f.socket)
	}
	f.socks = filepath.Join(filepath.Dir(f.socket), socksPrefix+suffix)
	if err := f.root.Symlink(target, socketLink); err != nil {
		return fmt.Errorf("placing tor's control socket: %w", err)
	}
	return nil
}

// release removes the sockets and unlocks the directory.
func (f *files) release() {
	if f.socket != "" {
		_ = os.Remove(f.socket)
		_ = os.Remove(f.socks)
		_ = f.root.Remove(socketLink)
	}
	if f.socketDir != "" {
		_ = os.Remove(f.socketDir)
	}
	if f.lock != nil {
		_ = f.lock.Close()
	}
	_ = f.root.Close()
}

// claim makes sure that only our tor uses the directory, and returns its locked
// file. Asking tor would be too late: it opens its control
// socket, in the place of the other's, before it checks for another.
//
// A tor whose owner was killed needs a moment to end; claim waits up to patience.
func (f *files) claim(ctx context.Context, patience time.Duration) (*os.File, error) {
	ours, err := lockFile(f.root, ownerFile)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for {
		theirs, err := lockFile(f.root, filepath.Join(dataDir, "lock")) // as tor does it
		if err == nil {
			return ours, theirs.Close()
		}
		if errors.Is(err, ErrInUse) && !time.Now().After(deadline) {
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-ctx.Done():
				err = fmt.Errorf("%w: %w", ctx.Err(), err)
			}
		}
		_ = ours.Close()
		return nil, err
	}
}

// lockFile opens and locks a file; closing it, and our end, unlock it.
func lockFile(root *os.Root, name string) (*os.File, error) {
	path := filepath.Join(root.Name(), name)
	file, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking tor's directory: %w", owner.Explain(err, path))
	}
	err = filelock.TryLock(file)
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, filelock.ErrLocked) {
		return nil, fmt.Errorf("%w (%s is locked)", ErrInUse, path)
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}
