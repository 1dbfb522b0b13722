package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"onionbalancer/internal/advice"
	"onionbalancer/internal/config"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/keystore"
	"onionbalancer/keystore/offline"
)

// decisive is a file or directory that decides about code or keys, and its name in
// messages.
type decisive struct{ what, path string }

// check reports whether someone else than root and user can change it.
func (d decisive) check(user strictmodes.User) error {
	path, err := openfile.Resolve(d.path)
	if err == nil {
		err = user.Check(path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.what, err)
	}
	return nil
}

func checkAll(user strictmodes.User, list []decisive) error {
	var errs []error
	for _, d := range list {
		errs = append(errs, d.check(user))
	}
	return errors.Join(errs...)
}

// decidesCode lists the files that decide which programs run, and with which options.
func decidesCode(cfg *config.Config) []decisive {
	list := []decisive{{"configuration", cfg.File}, {"state_dir", cfg.StateDir}}
	if !cfg.Tor.Own() {
		return list
	}
	if cfg.Tor.Torrc != "" {
		list = append(list, decisive{"tor.torrc", cfg.Tor.Torrc})
	}
	// A missing program is reported by its starter.
	if path, err := exec.LookPath(cmp.Or(cfg.Tor.Binary, "tor")); err == nil {
		list = append(list, decisive{"tor.binary", path})
	}
	return list
}

// refuseWritable reports files of cfg that decide about code and can be changed by others
// than root and this user.
func refuseWritable(cfg *config.Config, log *slog.Logger) error {
	user := strictmodes.Current()
	if err := checkAll(user, decidesAccess(cfg)); err != nil {
		log.Warn("others can change by what tor or the store of the cluster is reached", "error", err)
	}
	if err := checkAll(user, decidesCode(cfg)); err != nil {
		return fmt.Errorf("looking at who can change what balancer runs: %w", err)
	}
	return nil
}

// checkModes is refuseWritable for check.
func (c *checker) checkModes() {
	user := intendedUser(c.cfg)
	for _, d := range decidesCode(c.cfg) {
		if err := d.check(user); err != nil {
			c.fail("permissions", "", err)
		}
	}
	for _, d := range decidesAccess(c.cfg) {
		if err := d.check(user); err != nil {
			c.warn("permissions", "", "%w", err)
		}
	}
}

// decidesAccess lists the files by which tor and the store of a cluster are reached. Who can
// change one can only cause a denial of service: what is stored is sealed.
func decidesAccess(cfg *config.Config) (list []decisive) {
	for _, d := range []decisive{{"tor.password_file", cfg.Tor.PasswordFile}, {"cluster.ca", cfg.Cluster.CA}, {"cluster.cert", cfg.Cluster.Cert}} {
		if d.path != "" {
			list = append(list, d)
		}
	}
	return list
}

// checkService reports which of a service's token modules and its strategy's program,
// which are code, and of its instances' keys can be changed by others. The service's own key is checked
// by checkCustodian.
func checkService(user strictmodes.User, s config.Service) error {
	list := append(decidesPoints(s.Balancing), decidesToken("key", s.Key)...)
	return checkAll(user, append(list, decidesToken("signing", s.Signing)...))
}

// checkShard does the same for a shard, with the directory of its customers.
func checkShard(user strictmodes.User, s config.Shard) error {
	list := append(decidesPoints(s.Balancing), decidesToken("token", s.Token)...)
	return checkAll(user, append(list, decisive{"customers", s.Customers}))
}

// decidesPoints lists the files that decide about the introduction points of a service or
// a shard.
func decidesPoints(s config.Balancing) (list []decisive) {
	if program, is := advice.Program(s.Strategy); is {
		list = append(list, decisive{"strategy", program})
	}
	for _, i := range s.Instances {
		if i.ClientKey != "" {
			list = append(list, decisive{fmt.Sprintf("client_key of %q", i.Name), i.ClientKey})
		}
	}
	return list
}

// decidesToken lists the files of a token, if ref names one.
func decidesToken(what, ref string) []decisive {
	uri := uriOf(ref)
	if uri == nil {
		return nil
	}
	list := []decisive{{what + ": module-path", uri.ModulePath}}
	if pin, ok := strings.CutPrefix(uri.PINSource, "file:"); ok {
		list = append(list, decisive{what + ": pin-source", pin})
	}
	return list
}

// checkCustodian reports whether others can change the file that a custodian
// reads.
func checkCustodian(user strictmodes.User, custodian credential.Custodian) error {
	switch custodian := custodian.(type) {
	case *keystore.DiskKey:
		return decisive{"key", custodian.Path()}.check(user)
	case *keystore.SealedKey:
		return decisive{"key: x-sealed", custodian.Path()}.check(user)
	case keystore.OfflineKey:
		return decisive{"key", filepath.Join(custodian.Dir(), offline.KeysFile)}.check(user)
	}
	return nil
}

// intendedUser is the user that will run cfg: this process's user, or the owner
// of the state_dir or keys when root checks files for another user.
func intendedUser(cfg *config.Config) strictmodes.User {
	if os.Geteuid() == 0 {
		// If state_dir does not exist yet, it is the owner of the keys.
		places := []string{cfg.StateDir}
		for _, s := range cfg.Services {
			places = append(places, s.Key)
		}
		for _, s := range cfg.Shards {
			places = append(places, s.Customers)
		}
		for _, place := range places {
			if owner, err := strictmodes.Owner(place); err == nil {
				return owner
			}
		}
	}
	return strictmodes.Current()
}
