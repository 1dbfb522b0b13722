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
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/config"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/owner"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/shell"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/internal/tor/process"
	"onionbalancer/keystore/token"
	"onionbalancer/selection"
)

// Level says how good a finding of Check is.
type Level string

// The levels, best first.
const (
	LevelOK      Level = "ok"
	LevelWarning Level = "warning" // works, but not as well as it could
	LevelFailed  Level = "failed"
)

// Finding is what Check found out about one thing that the operator set.
type Finding struct {
	What   string `json:"what"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it

	// Instead is a file in the place of the one at fault, ready to be pasted.
	Instead string `json:"instead,omitempty"`
}

// checkFetch is how long Check waits for the instances, all together.
const checkFetch = time.Minute

// checker carries a check from one thing to the next.
type checker struct {
	cfg      *config.Config
	log      *slog.Logger
	tell     func(Finding)
	torLog   string // where to see what tor itself says
	services []checkedService
	torrcBad bool // so that no tor of our own can be started
}

type checkedService struct {
	name string
	balance.Config
}

// Check tries everything that cfg names and tells each finding as soon as it is
// made; offline, only what needs no network. It publishes nothing. Its error is
// only about ctx having ended.
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
	token.RememberIn(cfg.StateDir)
	c.checkTorrc()
	c.checkKeys(ctx)
	defer c.release()
	for _, s := range c.services {
		c.checkWeights(s)
	}
	if !offline && !c.torrcBad {
		c.checkNetwork(ctx)
	}
	return ctx.Err()
}

func (c *checker) ok(what, detail string, args ...any) {
	c.tell(Finding{What: what, Level: LevelOK, Detail: fmt.Sprintf(detail, args...)})
}

func (c *checker) warn(what, fix, detail string, args ...any) {
	c.tell(Finding{What: what, Level: LevelWarning, Detail: fmt.Sprintf(detail, args...), Fix: fix})
}

// fail tells of an error. fix is what to do unless the error knows better.
func (c *checker) fail(what, fix string, err error) {
	text, advice := control.Split(err)
	c.tell(Finding{What: what, Level: LevelFailed, Detail: text, Fix: cmp.Or(advice, fix)})
}

// checkBuild warns of a program that was built without what erases secrets.
func (c *checker) checkBuild(erases bool) {
	if !erases {
		c.warn("build", "build it with make, or with GOEXPERIMENT=runtimesecret go build",
			"without the Go experiment runtimesecret: what computing with a key leaves on the stack and the heap is not erased")
	}
}

// checkState tries to write where the daemon would.
func (c *checker) checkState() {
	what := "state directory " + c.cfg.StateDir
	fix := "make it writable for the user that balancer runs as, and see that the disk has room"
	if err := status.CheckPath(filepath.Join(c.cfg.StateDir, status.SocketName)); err != nil {
		c.warn(what, "choose a shorter state_dir", "\"balancer status\" will not work: %v", err)
	}
	if _, err := os.Stat(c.cfg.StateDir); errors.Is(err, fs.ErrNotExist) && os.Geteuid() == 0 {
		// Made by root, it would be in the way of the daemon's user.
		c.warn(what, "run as root: install -d -m 0700 -o USER -g USER "+shell.Quote(c.cfg.StateDir)+", with the user that balancer runs as",
			"not there yet; balancer makes it at its start if it may")
		return
	}
	if err := os.MkdirAll(c.cfg.StateDir, 0o700); err != nil {
		c.fail(what, fix, err)
		return
	}
	f, err := os.CreateTemp(c.cfg.StateDir, ".check-")
	if err == nil {
		_, err = f.Write(make([]byte, 4096))
		err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		c.fail(what, fix, owner.Explain(err, c.cfg.StateDir))
		return
	}
	c.ok(what, "writable")
}

// checkTorrc reads the lines for a tor of our own, and tells each fault by
// itself.
func (c *checker) checkTorrc() {
	if c.cfg.Tor.Torrc == "" {
		return
	}
	what := "torrc lines " + c.cfg.Tor.Torrc
	lines, err := process.ReadLines(c.cfg.Tor.Torrc)
	if err == nil {
		c.ok(what, "%s", printable.Count(len(lines), "option"))
		return
	}
	for _, fault := range config.Each(err) {
		c.fail("torrc lines", "", fault)
	}
	c.torrcBad = true
}

// checkPassword warns of a password for the first process that listens: a port of loopback
// is anybody's while tor is down.
func (c *checker) checkPassword() {
	for _, control := range c.cfg.Tor.Controls {
		if c.cfg.Tor.PasswordFile != "" && !strings.HasPrefix(control, "unix:") {
			c.warn("tor.password_file", "use tor's ControlSocket, or CookieAuthentication 1 and cookie_file",
				"while tor is down, whatever answers at %s is told the password", control)
		}
	}
}

// checkNetwork tries each tor, then the consensus of the first that answers, then
// the instances.
func (c *checker) checkNetwork(ctx context.Context) {
	tors, stop, err := borrowTors(ctx, c.cfg, c.log)
	if err != nil {
		c.fail("tor", fixTor(err), err)
		return
	}
	defer stop()
	var first *tor.Tor
	for _, t := range tors.Tors() {
		if c.checkTor(ctx, t) && first == nil {
			first = t
		}
	}
	if first == nil {
		return
	}
	if consensus := c.checkConsensus(ctx, first); consensus != nil {
		for _, s := range c.services {
			c.checkInstances(ctx, newFetcher(first), consensus, s)
		}
	}
}

// checkTor reports whether a tor answers.
func (c *checker) checkTor(ctx context.Context, t *tor.Tor) bool {
	what := "tor at " + t.Target()
	c.torLog = "see tor's log"
	if t.Own() {
		what, c.torLog = t.Target(), "tor's own lines are in the log of this command"
	}
	if err := t.Ready(ctx); err != nil {
		c.fail(what, c.torLog, err)
		return false
	}
	version := t.Client().State().TorVersion
	if err := control.CheckVersion(version); err != nil {
		text, fix := control.Split(err)
		c.warn(what, fix, "connected; %s", text)
	} else {
		c.ok(what, "connected, version %s", version)
	}
	return true
}

// fixTor says what to do about a tor of our own that does not start.
func fixTor(err error) string {
	switch {
	case errors.As(err, new(*exec.Error)):
		return "install tor 0.4.8 or later, or name a running one with control in [tor]"
	case errors.Is(err, process.ErrInUse):
		return "try again in a few seconds; if it stays so, look with balancer status whether a balancer runs there"
	case errors.Is(err, fs.ErrPermission):
		return "state_dir, with all that is in it, has to belong to the user that balancer runs as"
	default:
		return "if these are tor's words, fix the line of tor.torrc that they are about; tor has to be 0.4.8 or later"
	}
}

// checkConsensus waits for a consensus and compares it with the clock.
func (c *checker) checkConsensus(ctx context.Context, t *tor.Tor) *hsdir.Consensus {
	const what = "consensus"
	consensus, err := awaitConsensus(ctx, t, c.log)
	if err != nil {
		c.fail(what, c.torLog, err)
		return nil
	}
	if err := c.outdated(ctx, t, consensus); err != nil {
		if text, fix := control.Split(err); consensus.ReasonablyLive(time.Now()) {
			c.warn(what, cmp.Or(fix, c.torLog), "%s", text)
		} else {
			c.fail(what, c.torLog, err)
		}
		return consensus
	}
	if consensus.Coverage.Missing > 0 {
		c.warn(what, "tor is still fetching; try again in a minute", "%s", consensus.Coverage)
	} else {
		c.ok(what, "of %s, %d HSDirs", utc(consensus.ValidAfter), len(consensus.HSDirs))
	}
	if err := t.Client().ClockError(ctx); err != nil {
		text, fix := control.Split(err)
		c.warn("clock", fix, "%s", text)
	}
	return consensus
}

// earlyConsensus is how long before its time a consensus may come without the
// clock being wrong.
const earlyConsensus = 5 * time.Minute

// outdated says why a consensus is not of now. One from the future is nobody's
// mistake but the clock's; of one that is over, tor is asked for the cause.
func (c *checker) outdated(ctx context.Context, t *tor.Tor, consensus *hsdir.Consensus) error {
	now := time.Now()
	switch {
	case now.Before(consensus.ValidAfter.Add(-earlyConsensus)):
		return &control.Advice{
			Err: fmt.Errorf("of %s, and this machine's clock says %s", utc(consensus.ValidAfter), utc(now)),
			Fix: "set the clock right, by NTP for instance",
		}
	case now.After(consensus.ValidUntil):
		_, why := t.Client().WhyNoConsensus(ctx, nil)
		return fmt.Errorf("tor has no newer one than that of %s, over since %s: %w", utc(consensus.ValidAfter), utc(consensus.ValidUntil), why)
	}
	return nil
}

func utc(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }

// checkInstances fetches every instance of a service, and adds up.
func (c *checker) checkInstances(ctx context.Context, fetcher backend.Fetcher, consensus *hsdir.Consensus, s checkedService) {
	ctx, cancel := context.WithTimeout(ctx, checkFetch)
	defer cancel()
	type answer struct {
		descriptor *descriptor.Descriptor
		err        error
	}
	answers := make([]chan answer, len(s.Instances))
	for n, i := range s.Instances {
		answers[n] = make(chan answer, 1)
		go func() {
			keys, err := i.Address.Keys(consensus.CurrentPeriod())
			if err != nil {
				answers[n] <- answer{nil, err}
				return
			}
			got, err := fetcher.Fetch(ctx, consensus, keys, i.Client, 0, time.Now())
			answers[n] <- answer{got.Descriptor, err}
		}()
	}
	points, found := 0, 0
	for n, i := range s.Instances {
		a := <-answers[n]
		c.instance(s.name+" "+i.Name, a.descriptor, a.err)
		if a.err == nil {
			found++
			points += min(len(a.descriptor.IntroductionPoints), s.Room.PerInstance)
		}
	}
	c.checkLimit(s, found, points)
}

// instance tells what was found of one instance.
func (c *checker) instance(what string, d *descriptor.Descriptor, err error) {
	what = "instance " + what
	switch {
	case err == nil:
	case errors.Is(err, hsdir.ErrNotFound):
		c.fail(what, "is its tor running and connected? Is the address right? A new service needs a minute or two to be published", err)
		return
	case errors.Is(err, hsdir.ErrInvalid), errors.Is(err, descriptor.ErrClientKey):
		c.fail(what, "if it requires client authorization, set client_key; otherwise see its tor's version and log", err)
		return
	default:
		c.fail(what, "try again; if it stays so, "+c.torLog, err)
		return
	}
	var notes []string
	if len(d.PowParams) > 0 {
		notes = append(notes, "it asks for proof of work, which clients of the public address cannot give (set HiddenServicePoWDefensesEnabled 0)")
	}
	if d.FlowControl == nil {
		notes = append(notes, "it offers no congestion control, so transfers through the public address are slower (tor 0.4.7 or later offers it)")
	}
	if len(d.IntroductionPoints) == 0 {
		notes = append(notes, "none of its introduction points can be used")
	}
	detail := fmt.Sprintf("%s, revision counter %d", printable.Count(len(d.IntroductionPoints), "introduction point"), d.RevisionCounter)
	if len(notes) > 0 {
		c.warn(what, strings.Join(notes, "; "), "%s", detail)
		return
	}
	c.ok(what, "%s", detail)
}

// checkWeights says when the weights ask for other shares than the points that an
// instance may have come to.
func (c *checker) checkWeights(s checkedService) {
	strategy, weighted := s.Strategy.(selection.Weighted)
	if !weighted {
		return
	}
	weights, sum := make(map[string]float64), 0.0
	for _, i := range s.Instances {
		weights[i.Name] = i.Weight
		sum += i.Weight
	}
	shares := strategy.Reach(weights, s.Room)
	const tolerable = 0.05
	for _, i := range s.Instances {
		if wish := i.Weight / sum; math.Abs(shares[i.Name]-wish) > tolerable {
			c.warn("service "+s.name, "set points_per_instance, and HiddenServiceNumIntroductionPoints in the torrc of the heavy instances, to the largest weight for every 1 of the smallest",
				"instance %s cannot have the %.0f %% that its weight asks for, but %.0f %%, with at most %d introduction points of each", i.Name, 100*wish, 100*shares[i.Name], s.Room.PerInstance)
			return
		}
	}
}

// checkLimit says whether the limit of a descriptor leaves points out.
func (c *checker) checkLimit(s checkedService, found, points int) {
	what := "service " + s.name
	limit := min(s.Room.Points, descriptor.MaxIntroductionPoints)
	switch {
	case found == 0:
		c.fail(what, "see to the instances above", errors.New("none of its instances can be reached, so nothing would be published"))
	case len(s.Instances) > limit:
		c.warn(what, "use fewer instances, or put several behind one", "%d instances and at most %s: some instances get no clients", len(s.Instances), printable.Count(limit, "introduction point"))
	case points > limit:
		c.ok(what, "%d introduction points, of which a descriptor takes %d: strategy %q chooses", points, limit, s.Strategy.Name())
	default:
		c.ok(what, "all %s of %s fit into a descriptor (limit %d)", printable.Count(points, "introduction point"), printable.Count(found, "instance"), limit)
	}
}
