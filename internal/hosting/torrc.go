package hosting

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/owner"
	"onionbalancer/keystore"
)

// Port is a HiddenServicePort: the port that visitors ask for, and where it leads.
type Port struct {
	Virtual uint16
	Target  string // "host:port" or "unix:/path"
}

// DefaultPort is the port of a replica if nothing else is said.
var DefaultPort = Port{80, "127.0.0.1:8080"}

// ParsePort reads "VIRTUAL:TARGET", for instance "80:127.0.0.1:8080" or
// "80:unix:/run/web.sock".
func ParsePort(s string) (Port, error) {
	virtual, target, found := strings.Cut(s, ":")
	if !found {
		target = virtual
	}
	p, err := newPort(virtual, target)
	if err != nil {
		return Port{}, fmt.Errorf("reading port %q: %w; want VIRTUAL:TARGET, such as 80:127.0.0.1:8080", s, err)
	}
	return p, nil
}

// readPort reads the value of a HiddenServicePort, "VIRTUAL [TARGET]".
func readPort(value string) (Port, error) {
	fields := strings.Fields(value)
	switch len(fields) {
	case 1:
		return newPort(fields[0], fields[0])
	case 2:
		return newPort(fields[0], strings.Trim(fields[1], `"`))
	}
	return Port{}, fmt.Errorf("%q is no HiddenServicePort", value)
}

func newPort(virtual, target string) (Port, error) {
	n, err := strconv.ParseUint(virtual, 10, 16)
	if err != nil || n == 0 {
		return Port{}, fmt.Errorf("%q is no port, from 1 to 65535", virtual)
	}
	if path, is := strings.CutPrefix(target, "unix:"); is {
		if !filepath.IsAbs(path) || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '#' || r == '\\' }) {
			return Port{}, fmt.Errorf("%q is no absolute path of a socket without spaces", path)
		}
		return Port{uint16(n), target}, nil
	}
	if _, err := strconv.ParseUint(target, 10, 16); err == nil {
		target = net.JoinHostPort("127.0.0.1", target)
	} else if ip, err := netip.ParseAddr(strings.Trim(target, "[]")); err == nil {
		target = net.JoinHostPort(ip.String(), virtual)
	}
	host, port, err := net.SplitHostPort(target)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || number == 0 || !hostForm.MatchString(host) {
		return Port{}, fmt.Errorf("%q is no address with a port", target)
	}
	return Port{uint16(n), target}, nil
}

// hostForm is an IP address or the name of a host.
var hostForm = regexp.MustCompile(`^[0-9A-Za-z.:-]+$`)

// String writes the value of a HiddenServicePort.
func (p Port) String() string { return fmt.Sprintf("%d %s", p.Virtual, p.Target) }

// Torrc writes the torrc of a replica, which keeps its HiddenServiceDir in dir.
func Torrc(shard, replica, dir string, ports []Port) []byte {
	var text bytes.Buffer
	fmt.Fprintf(&text, `# Replica %[2]s of shard %[1]s, written by balancer for a tor of its own. A tor may serve
# several shards: then take what begins with HiddenServiceDir to its torrc.

# No client runs here, so no SOCKS port.
SocksPort 0

# The replica's own key, which no other replica has, and ob_config, which all have alike.
# tor reads ob_config at its start alone: restart it after a change, a reload is not enough.
# It does not start without it, and crashes when it is empty.
HiddenServiceDir %[3]s
`, shard, replica, dir)
	text.WriteString(`
# Where the visitors of all customers go, whom the web server there tells apart by the Host
# header: tor does not say which address a visitor asked for. The first number has to be
# the same on all replicas. Each of these ports is open to all visitors.
`)
	for _, p := range ports {
		fmt.Fprintf(&text, "HiddenServicePort %s\n", p)
	}
	text.WriteString(`
HiddenServiceOnionBalanceInstance 1

# Each introduction costs this tor 10 microseconds of processor time for every line of
# ob_config, garbage included. The relays pass on 25 a second for each introduction
# point, after a burst of 50, and drop the rest.
HiddenServiceEnableIntroDoSDefense 1
HiddenServiceEnableIntroDoSRatePerSec 25
HiddenServiceEnableIntroDoSBurstPerSec 50

# A replica would check a proof of work against its own address, and nobody has one for that.
HiddenServicePoWDefensesEnabled 0
`)
	return text.Bytes()
}

// torDir is where a replica keeps its HiddenServiceDir, on Debian.
func torDir(shard string) string { return "/var/lib/tor/" + shard }

// Ports returns the ports in the torrc that was written for a replica.
func (d *Dir) Ports(replica string) ([]Port, error) {
	dir, err := d.ReplicaDir(replica)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, TorrcFile)
	text, err := readFile(path, maxTorrc)
	if err != nil {
		return nil, err
	}
	services, _, err := readTorrc(text)
	if err == nil && len(services) != 1 {
		err = fmt.Errorf("%d onion services in it, want one", len(services))
	}
	if err != nil {
		return nil, fmt.Errorf("reading the torrc of a replica: %s: %w", path, err)
	}
	return services[0].Ports, nil
}

// WriteTorrc writes the torrc of a replica, unless there is one, which may have been edited.
func (d *Dir) WriteTorrc(shard, replica string, ports []Port) error {
	dir, err := d.ReplicaDir(replica)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, TorrcFile)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	err = durable.WriteChecked(path, Torrc(shard, replica, torDir(shard), ports), func(written string) error {
		text, err := readFile(written, maxTorrc)
		if err != nil {
			return err
		}
		services, _, err := readTorrc(text)
		if err == nil && (len(services) != 1 || !services[0].instance || !slices.Equal(services[0].Ports, ports)) {
			err = errors.New("what was written is read otherwise")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the torrc of %s: %w", replica, owner.Explain(err, d.path))
	}
	return nil
}

// MakeReplica makes the HiddenServiceDir of a replica with a key of its own, unless it is
// there, and returns its address.
func (d *Dir) MakeReplica(replica string) (descriptor.Address, error) {
	dir, err := d.ReplicaDir(replica)
	if err != nil {
		return descriptor.Address{}, err
	}
	dir = filepath.Join(dir, ServiceDir)
	if _, err := os.Stat(filepath.Join(dir, torKey)); errors.Is(err, fs.ErrNotExist) {
		fresh, err := keystore.New(rand.Reader)
		if err != nil {
			return descriptor.Address{}, err
		}
		defer fresh.Wipe()
		if err := fresh.WriteTor(dir); err != nil {
			return descriptor.Address{}, fmt.Errorf("making the key of replica %s: %w", replica, owner.Explain(err, d.path))
		}
		return fresh.Address(), nil
	}
	key, err := keystore.OpenDisk(dir)
	if err != nil {
		return descriptor.Address{}, err
	}
	return key.Address(), key.Close()
}
