// Package etcdlab runs one or three real etcd on loopback, for tests and demonstrations, and
// breaks them.
//
// The program is Debian's etcd-server, or what BALANCER_ETCD names.
package etcdlab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Variable names the program in the environment.
const Variable = "BALANCER_ETCD"

// Config is what a cluster is like. The zero value is one etcd over plain http.
type Config struct {
	// Dir takes all files. Empty: a directory of its own, which Stop removes.
	Dir     string
	Members int // 1 or 3; 0: 1
	// TLS makes an authority and certificates; ClientCert also has clients show one.
	TLS, ClientCert bool
	// Users switches authentication on.
	Users []User
	// Unix has each member listen on a Unix socket, too.
	Unix  bool
	Quota int64 // bytes; 0: etcd's default
	// Args are more arguments, such as --auto-compaction-mode=revision,
	// --auto-compaction-retention=1000, --auth-token-ttl=5.
	Args []string
}

// User may read and write the keys that begin with Prefix, which does not end with 0xff.
type User struct{ Name, Password, Prefix string }

// Lab is a running cluster. Its methods are not for concurrent use.
type Lab struct {
	config  Config
	binary  string
	dir     string
	own     bool // dir is
	members []*member
	tls     *authority // nil without TLS
	admin   *http.Client
	root    string // password of root; empty without users
}

// errPortTaken says that another program was quicker to listen on a port.
var errPortTaken = errors.New("a port was taken by another program")

// Binary finds the program.
func Binary() (string, error) {
	if path := os.Getenv(Variable); path != "" {
		return path, nil
	}
	path, err := exec.LookPath("etcd")
	if err != nil {
		return "", fmt.Errorf("etcd is not installed: apt-get install etcd-server, or name the program in %s", Variable)
	}
	return path, nil
}

// Start returns once the cluster has a leader. ctx is for starting alone.
func Start(ctx context.Context, config Config) (l *Lab, err error) {
	l = &Lab{config: config, dir: config.Dir}
	if l.binary, err = Binary(); err != nil {
		return nil, err
	}
	if l.config.Members == 0 {
		l.config.Members = 1
	}
	if l.dir == "" {
		if l.dir, err = os.MkdirTemp("", "etcdlab"); err != nil {
			return nil, err
		}
		l.own = true
	}
	defer func() {
		if err != nil {
			l.Stop()
			l = nil
		}
	}()
	if l.dir, err = filepath.Abs(l.dir); err != nil {
		return l, err
	}
	if err = os.MkdirAll(l.dir, 0o700); err != nil {
		return l, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if config.TLS || config.ClientCert {
		if l.tls, err = newAuthority(l.dir); err != nil {
			return l, fmt.Errorf("making certificates for etcd: %w", err)
		}
		transport.TLSClientConfig = l.TLS()
	}
	l.admin = &http.Client{Transport: transport, Timeout: time.Minute}
	for try := range 5 {
		if err = l.launch(ctx, try); !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err == nil && len(config.Users) > 0 {
		err = l.EnableUsers(ctx)
	}
	if err != nil {
		return l, fmt.Errorf("starting etcd: %w", err)
	}
	return l, nil
}

// launch starts all members, without data, on ports that were free a moment ago. If they are
// not any more, the error is errPortTaken.
func (l *Lab) launch(ctx context.Context, try int) error {
	l.kill()
	l.members = nil
	var cluster []string
	for i := range l.config.Members {
		name := "etcd" + strconv.Itoa(i)
		m := &member{name: name, dir: filepath.Join(l.dir, name), client: freePort(), peer: freePort()}
		if err := errors.Join(os.MkdirAll(m.dir, 0o700), os.RemoveAll(filepath.Join(m.dir, "data"))); err != nil {
			return err
		}
		l.members = append(l.members, m)
		cluster = append(cluster, fmt.Sprintf("%s=http://127.0.0.1:%d", name, m.peer))
	}
	for _, m := range l.members {
		m.args = l.args(m, strings.Join(cluster, ","), try)
		if err := m.start(l.binary); err != nil {
			return err
		}
	}
	_, err := l.Leader(ctx)
	return err
}

func (l *Lab) args(m *member, cluster string, try int) []string {
	url := fmt.Sprintf("%s://127.0.0.1:%d", l.scheme(), m.client)
	listen := url
	if l.config.Unix {
		listen += ",unix://" + socketName // without TLS
	}
	peer := fmt.Sprintf("http://127.0.0.1:%d", m.peer)
	args := []string{
		"--name=" + m.name, "--data-dir=data", "--logger=zap", "--log-level=warn",
		"--listen-client-urls=" + listen, "--advertise-client-urls=" + url,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + cluster, "--initial-cluster-token=" + filepath.Base(l.dir) + strconv.Itoa(try),
		"--initial-cluster-state=new", "--bcrypt-cost=4",
	}
	if l.tls != nil {
		args = append(args, "--cert-file="+l.tls.serverCert, "--key-file="+l.tls.serverKey)
	}
	if l.config.ClientCert {
		args = append(args, "--client-cert-auth", "--trusted-ca-file="+l.tls.caFile)
	}
	if l.config.Quota > 0 {
		args = append(args, "--quota-backend-bytes="+strconv.FormatInt(l.config.Quota, 10))
	}
	return append(args, l.config.Args...)
}

func (l *Lab) scheme() string {
	if l.tls != nil {
		return "https"
	}
	return "http"
}

// freePort finds one below those that the kernel gives to whoever asks for any, so that it
// stays free while a member is down.
func freePort() int {
	for {
		port := 12000 + rand.IntN(20000)
		if listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			listener.Close()
			return port
		}
	}
}

// Stop ends all members. It removes the files if their directory is the Lab's own.
func (l *Lab) Stop() error {
	l.kill()
	if l.own {
		return os.RemoveAll(l.dir)
	}
	return nil
}

func (l *Lab) kill() {
	for _, m := range l.members {
		m.kill()
	}
}

// Members returns how many there are.
func (l *Lab) Members() int { return len(l.members) }

// Endpoints returns where clients find the members, in their order.
func (l *Lab) Endpoints() []string {
	var all []string
	for _, m := range l.members {
		all = append(all, fmt.Sprintf("%s://127.0.0.1:%d", l.scheme(), m.client))
	}
	return all
}

// Socket returns where a member's Unix socket is: unix:/path.
func (l *Lab) Socket(member int) string {
	return "unix:" + filepath.Join(l.members[member].dir, socketName)
}

// socketName looks like a host with a port, which etcd demands.
const socketName = "etcd:1"

// Dir returns the directory of all files.
func (l *Lab) Dir() string { return l.dir }

// DataDir returns the directory in which a member keeps its log and its keys.
func (l *Lab) DataDir(member int) string { return filepath.Join(l.members[member].dir, "data") }

// Log returns the end of what a member has logged.
func (l *Lab) Log(member int) string { return l.members[member].log() }

// Kill ends a member with SIGKILL.
func (l *Lab) Kill(member int) { l.members[member].kill() }

// Pause stops a member with SIGSTOP; its connections stay.
func (l *Lab) Pause(member int) error { return l.members[member].pause() }

// Resume is the end of Pause.
func (l *Lab) Resume(member int) error { return l.members[member].resume() }

// Restart starts a member that was killed, with the data that it had. It returns before the
// member is ready.
func (l *Lab) Restart(member int) error { return l.members[member].start(l.binary) }

// Wipe kills all members and starts them with no data and no users, and has the cluster's
// identifier changed or not: etcd makes it of its arguments.
func (l *Lab) Wipe(ctx context.Context, sameIdentifier bool) error {
	l.kill()
	for _, m := range l.members {
		if err := os.RemoveAll(filepath.Join(m.dir, "data")); err != nil {
			return err
		}
		if !sameIdentifier {
			m.args = append(m.args, "--initial-cluster-token=wiped"+strconv.Itoa(rand.Int()))
		}
	}
	l.root = ""
	for _, m := range l.members {
		if err := m.start(l.binary); err != nil {
			return err
		}
	}
	_, err := l.Leader(ctx)
	return err
}

// TLS is for clients of the cluster, with a certificate; nil without TLS.
func (l *Lab) TLS() *tls.Config {
	if l.tls == nil {
		return nil
	}
	return &tls.Config{RootCAs: l.tls.pool, Certificates: []tls.Certificate{l.tls.client}}
}

// CAFile is the authority's certificate, in PEM.
func (l *Lab) CAFile() string { return l.tls.caFile }

// Certificate makes a client's certificate and its key, in PEM files.
func (l *Lab) Certificate(name string) (certFile, keyFile string, err error) {
	return l.tls.issue(l.dir, name)
}
