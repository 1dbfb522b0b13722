package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/probe"
	"onionbalancer/internal/shell"
	"onionbalancer/internal/socket"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/internal/strictmodes"
	"onionbalancer/internal/tor/control"
	"onionbalancer/internal/tor/process"
	"onionbalancer/keystore/token"
	"onionbalancer/selection"
)

// Level is the severity of a finding of Check.
type Level string

// The levels, best first.
const (
	LevelOK      Level = "ok"
	LevelWarning Level = "warning" // works, but not as well as it could
	LevelFailed  Level = "failed"
)

// Finding is the result of checking one configured thing.
type Finding struct {
	What   string `json:"what"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it

	// Instead is a corrected file in place of the faulty one, ready to be pasted.
	Instead string `json:"instead,omitempty"`
}

// checker carries state from one check to the next.
type checker struct {
	cfg      *config.Config
	log      *slog.Logger
	tell     func(Finding)
	torLog   string           // where to see what tor itself says
	services []balance.Config // those that could be opened
	shards   []checkedShard   // those whose instances can be fetched
	torrcBad bool             // so that no tor of our own can be started
	store    *clusterFiles    // nil if there is no store to look at
}

// Check tries everything that cfg names and reports each finding as soon as it is
// made; offline, only what needs no network. It publishes nothing. It returns an error
// only if ctx has ended.
func Check(ctx context.Context, cfg *config.Config, offline bool, log *slog.Logger, tell func(Finding)) error {
	c := &checker{cfg: cfg, log: log, tell: tell}
	c.checkBuild(locked.Erases)
	c.checkModes()
	c.checkState()
	c.checkStored()
	for _, linked := range c.cfg.Linked() {
		c.warn("configuration", "", "%s", linked)
	}
	c.checkPassword()
	if files, good := c.checkClusterFiles(); good {
		c.store = &files
	}
	token.RememberIn(cfg.StateDir)
	c.checkTorrc()
	c.checkKeys(ctx)
	defer func() { release(slices.Values(c.services), log) }()
	for _, s := range c.services {
		c.checkWeights(shortName(s), s)
		c.checkProfile(s)
		c.checkProgram(ctx, s)
		c.checkProbes(shortName(s), s, nil)
	}
	if !offline && !c.cfg.Cluster.Onion() {
		c.checkStore(ctx, nil)
	}
	if !offline && !c.torrcBad {
		c.checkNetwork(ctx)
	}
	return ctx.Err()
}

func shortName(s balance.Config) string { return s.Keys.Custodian.Address().Short() }

func (c *checker) ok(what, detail string, args ...any) {
	c.tell(Finding{What: what, Level: LevelOK, Detail: fmt.Sprintf(detail, args...)})
}

// warn reports something that works, but not well. fix says how to fix it, unless an error
// among args has advice of its own.
func (c *checker) warn(what, fix, detail string, args ...any) {
	c.trouble(LevelWarning, what, fix, fmt.Errorf(detail, args...))
}

// fail reports an error. fix says how to fix it, unless the error has advice of its own.
func (c *checker) fail(what, fix string, err error) { c.trouble(LevelFailed, what, fix, err) }

func (c *checker) trouble(level Level, what, fix string, err error) {
	text, advice := control.Split(err)
	c.tell(Finding{What: what, Level: level, Detail: text, Fix: cmp.Or(advice, fix)})
}

// checkBuild warns of a program that was built without the experiment that erases secrets.
func (c *checker) checkBuild(erases bool) {
	if !erases {
		c.warn("build", "build it with make, or with GOEXPERIMENT=runtimesecret go build",
			"without the Go experiment runtimesecret: what computing with a key leaves on the stack and the heap is not erased")
	}
}

// checkState tries to write where the daemon would.
func (c *checker) checkState() {
	what := "state directory " + c.cfg.StateDir
	if err := socket.CheckPath(filepath.Join(c.cfg.StateDir, status.SocketName)); err != nil {
		c.warn(what, "choose a shorter state_dir", "\"balancer status\" will not work: %w", err)
	}
	if _, err := os.Stat(c.cfg.StateDir); errors.Is(err, fs.ErrNotExist) && os.Geteuid() == 0 {
		// Made by root, it could not be used by the daemon's user.
		c.warn(what, "run as root: install -d -m 0700 -o USER -g USER "+shell.Quote(c.cfg.StateDir)+", with the user that balancer runs as",
			"not there yet; balancer makes it at its start if it may")
		return
	}
	if err := tryWriting(c.cfg.StateDir); err != nil {
		c.fail(what, "make it writable for the user that balancer runs as, and see that the disk has room", err)
		return
	}
	c.ok(what, "writable")
}

// tryWriting makes a directory, if it does not exist, and writes a file in it.
func tryWriting(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".check-")
	if err == nil {
		_, err = f.Write(make([]byte, 4096))
		err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	}
	return owner.Explain(err, dir)
}

// checkStored checks the state stored in the state directory: whether it can be
// read, and by which users.
func (c *checker) checkStored() {
	path := filepath.Join(c.cfg.StateDir, state.File)
	what := "stored state " + path
	c.checkStoredModes(what, path)
	db, err := state.OpenReadOnly(c.cfg.StateDir, slog.New(slog.DiscardHandler))
	if err == nil {
		err = db.Damage()
	}
	switch {
	case err == nil:
		c.ok(what, "whole")
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, state.ErrNewer):
		c.fail(what, state.NewerFix, err)
	case errors.Is(err, state.ErrDamaged):
		c.warn(what, "restore it from a backup that is at most a few hours old, or let balancer put it aside and continue with the intact records", "%w", err)
	default:
		c.fail(what, "see that the user that balancer runs as can read it", err)
	}
}

// checkStoredModes warns of a store that others than the balancer's user can open.
// Anyone who changes it can only cause a denial of service.
func (c *checker) checkStoredModes(what, path string) {
	info, err := os.Stat(path)
	if err != nil {
		return // it is not there, or the next check tells
	}
	user := intendedUser(c.cfg)
	if owner, err := strictmodes.Owner(path); err == nil && owner.UID != user.UID {
		c.warn(what, "see that it belongs to the user that balancer runs as, like state_dir", "belongs to user %d, and balancer runs as user %d", owner.UID, user.UID)
	}
	if info.Mode().Perm()&0o077 != 0 {
		c.warn(what, "chmod 600 "+shell.Quote(path), "others can open it: its mode is %s", info.Mode())
	}
}

// checkProbes says what has to be in the ob_config of instances with a probe address. name is
// that of the service or shard; has tells whether the ob_config that was written for an instance
// of a shard has an address.
func (c *checker) checkProbes(name string, s balance.Config, has func(instance string, a descriptor.Address) bool) {
	store, err := state.OpenReadOnly(c.cfg.StateDir, slog.New(slog.DiscardHandler))
	if errors.Is(err, fs.ErrNotExist) {
		store, err = new(state.DB), nil // has nothing stored
	}
	for _, i := range s.Instances {
		if !i.Probe {
			continue
		}
		what := "probe address of " + name + " " + i.Name
		var address descriptor.Address
		if err == nil {
			address, err = probe.Find(store, i.Address)
		}
		switch {
		case err != nil:
			c.fail(what, "see that the user that balancer runs as can read the stored state", err)
		case address == (descriptor.Address{}):
			c.warn(what, "start balancer, and check again for the line to add to ob_config", "balancer makes it at its start")
		case has != nil && has(i.Name, address):
			c.ok(what, "its ob_config has the line")
		case has != nil:
			c.warn(what, "balancer shard refill "+name+", and restart the replicas as it says", "the ob_config that was written for it lacks the line, so that visits of it get no answer")
		default:
			c.tell(Finding{What: what, Level: LevelOK, Detail: "its ob_config needs the line: " + probe.Line(address), Fix: "add it where it is not there" + restartTor})
		}
	}
}

// restartTor says when a changed ob_config is read.
const restartTor = ", and restart that instance's tor, which reads the file at its start"

// checkTorrc reads the lines for a tor of our own, and reports each fault
// separately.
func (c *checker) checkTorrc() {
	if c.cfg.Tor.Torrc == "" {
		return
	}
	lines, err := process.ReadLines(c.cfg.Tor.Torrc)
	if err == nil {
		c.ok("torrc lines "+c.cfg.Tor.Torrc, "%s", printable.Count(len(lines), "option"))
		return
	}
	for _, fault := range config.Each(err) {
		c.fail("torrc lines", "", fault)
	}
	c.torrcBad = true
}

// checkPassword warns that a password is sent to the first process that listens: any local
// user can bind a loopback port while tor is down.
func (c *checker) checkPassword() {
	for _, control := range c.cfg.Tor.Controls {
		if c.cfg.Tor.PasswordFile != "" && !strings.HasPrefix(control, "unix:") {
			c.warn("tor.password_file", "use tor's ControlSocket, or CookieAuthentication 1 and cookie_file",
				"while tor is down, whatever answers at %s is told the password", control)
		}
	}
}

// checkWeights warns when the weights ask for other shares than the possible numbers of
// points give.
func (c *checker) checkWeights(name string, s balance.Config) {
	if s.Ordinary || !selection.Weighs(s.Strategy.Name()) {
		return
	}
	weights, sum := make(map[string]float64), 0.0
	for _, i := range s.Instances {
		weights[i.Name] = i.Weight
		sum += i.Weight
	}
	shares := selection.Weighted{}.Reach(weights, s.Room)
	const tolerable = 0.05
	for _, i := range s.Instances {
		if wish := i.Weight / sum; math.Abs(shares[i.Name]-wish) > tolerable {
			c.warn("service "+name, "set points_per_instance, and HiddenServiceNumIntroductionPoints in the torrc of the heavy instances, to the largest weight for every 1 of the smallest",
				"instance %s cannot have the %.0f %% that its weight asks for, but %.0f %%, with at most %d introduction points of each", i.Name, 100*wish, 100*shares[i.Name], s.Room.PerInstance)
			return
		}
	}
}
