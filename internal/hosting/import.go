package hosting

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/tor/process"
	"onionbalancer/keystore"
)

// maxTorrc is far above the size of any real torrc.
const maxTorrc = 1 << 20 // 1 MiB

// Found is an onion service of a host with many, which may become a customer.
type Found struct {
	Name    string             // of its directory
	Dir     string             // absolute
	Address descriptor.Address // zero if Refused
	Ports   []Port             // where its torrc led visitors; nil if no torrc was read
	Options []string           // other lines about it, "HiddenServiceMaxStreams 10"
	Refused error              // why it cannot be a customer

	instance bool // of an onion balancer
}

// Find lists the onion services at path: those of a torrc, that of a HiddenServiceDir, or those
// of a directory of such. notes say what of a torrc was not followed.
func Find(path string) (found []Found, notes []string, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
	case !info.IsDir():
		found, notes, err = findTorrc(path)
	case hasKey(path) || isOld(path):
		found = []Found{{Dir: path}}
	default:
		found, err = findDirs(path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("looking for onion services: %w", err)
	}
	if len(found) == 0 {
		return nil, notes, fmt.Errorf("looking for onion services: none in %s; want a torrc, a HiddenServiceDir, or a directory of those", path)
	}
	for i := range found {
		f := &found[i]
		f.Name = filepath.Base(f.Dir)
		if f.Refused == nil {
			f.Refused = f.look()
		}
	}
	return found, notes, nil
}

func findTorrc(path string) ([]Found, []string, error) {
	text, err := readFile(path, maxTorrc)
	if err != nil {
		return nil, nil, err
	}
	found, notes, err := readTorrc(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range found {
		if !filepath.IsAbs(found[i].Dir) {
			found[i].Dir = filepath.Join(filepath.Dir(path), found[i].Dir)
		}
	}
	return found, notes, nil
}

func findDirs(path string) (found []Found, err error) {
	entries, err := os.ReadDir(path)
	for _, entry := range entries {
		if dir := filepath.Join(path, entry.Name()); hasKey(dir) || isOld(dir) {
			found = append(found, Found{Dir: dir})
		}
	}
	return found, err
}

// isOld tells whether a directory is that of a version 2 onion service.
func isOld(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "private_key"))
	return err == nil
}

// look opens the key, and says why the service cannot be a customer.
func (f *Found) look() error {
	_, backend := os.Stat(filepath.Join(f.Dir, LinesFile))
	clients, err := filepath.Glob(filepath.Join(f.Dir, "authorized_clients", "*.auth"))
	switch {
	case err != nil:
		return err
	case !nameForm.MatchString(f.Name):
		return fmt.Errorf("%w: %q, the name of its directory; copy it to one called otherwise", ErrName, f.Name)
	case f.instance || backend == nil:
		return errors.New("it is a backend of an onion balancer, whose customers have other addresses")
	case len(clients) > 0:
		return errors.New("only the clients in its authorized_clients can find it, and a shard's customers are for everybody; give it a [[service]] with clients = \"DIR\"")
	case !hasKey(f.Dir) && isOld(f.Dir):
		return errors.New("it has a version 2 address, which Tor has given up")
	}
	key, err := keystore.OpenDisk(f.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no key, perhaps since its tor never ran")
	}
	if err != nil {
		return err
	}
	f.Address = key.Address()
	return key.Close()
}

// readTorrc reads the onion services of a torrc as tor does, of which Dir and what follows are
// filled in. notes tell of lines that would change the result and are not followed.
func readTorrc(text []byte) (found []Found, notes []string, err error) {
	options, err := process.Options(text)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range options {
		key := strings.ToLower(strings.TrimPrefix(o.Key, "+"))
		switch {
		case key == "%include":
			notes = append(notes, fmt.Sprintf("line %d: %%include %s is not followed: name those files as well", o.Line, o.Value))
		case key == "hiddenservicedir":
			found = append(found, Found{Dir: o.Value})
		case !strings.HasPrefix(key, "hiddenservice") || slices.Contains(perTor, key):
		case len(found) == 0:
			return nil, nil, fmt.Errorf("line %d: %s stands before any HiddenServiceDir, and tor would refuse it", o.Line, o.Key)
		default:
			if err := found[len(found)-1].read(key, o); err != nil {
				return nil, nil, fmt.Errorf("line %d: %w", o.Line, err)
			}
		}
	}
	return found, notes, nil
}

// perTor are options that are called like those of an onion service, and are of its tor.
var perTor = []string{"hiddenservicesinglehopmode", "hiddenservicenonanonymousmode", "hiddenservicestatistics"}

// read takes an option of the service.
func (f *Found) read(key string, o process.Option) error {
	value := o.Value
	switch key {
	case "hiddenserviceport":
		p, err := readPort(value)
		if err != nil {
			return fmt.Errorf("HiddenServicePort: %w", err)
		}
		f.Ports = append(f.Ports, p)
	case "hiddenserviceonionbalanceinstance":
		f.instance = value == "1"
	case "hiddenserviceversion":
		if value != "3" {
			f.Refused = fmt.Errorf("it is of version %s, which Tor has given up", value)
		}
	case "hiddenserviceallowunknownports", "hiddenservicedirgroupreadable":
		// of no meaning for visitors, or for the copy
	default:
		f.Options = append(f.Options, strings.TrimPrefix(o.Key, "+")+" "+value)
	}
	return nil
}
