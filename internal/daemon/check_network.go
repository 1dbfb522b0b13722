package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/printable"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/internal/tor/process"
)

// checkFetch is how long Check waits for the instances of a service, all together.
const checkFetch = time.Minute

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
	if c.cfg.Cluster.Onion() {
		c.checkStore(ctx, tors)
	}
	if consensus := c.checkConsensus(ctx, first); consensus != nil {
		c.checkGeoIP(ctx, first)
		for _, s := range c.services {
			c.checkInstances(ctx, first, consensus, "service "+shortName(s), s)
		}
		for _, s := range c.shards {
			c.checkInstances(ctx, first, consensus, "shard "+s.name, s.Config)
		}
		c.checkPublished(ctx, first, consensus)
		c.checkBeat(ctx, tors)
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
		c.warn(what, "", "connected; %w", err)
	} else {
		c.ok(what, "connected, version %s", version)
	}
	return true
}

// fixTor says how to fix a tor of our own that does not start.
func fixTor(err error) string {
	switch {
	case errors.As(err, new(*exec.Error)):
		return "install tor 0.4.8 or later, or name a running one with control in [tor]"
	case errors.Is(err, process.ErrInUse):
		return "try again in a few seconds; if it stays so, look with balancer status whether a balancer runs there"
	case errors.Is(err, fs.ErrPermission):
		return "state_dir, with all that is in it, has to belong to the user that balancer runs as"
	default:
		return "if these are tor's words, fix the line of tor.torrc that they name; tor has to be 0.4.8 or later"
	}
}

// checkConsensus waits for a consensus and compares it with the clock.
func (c *checker) checkConsensus(ctx context.Context, t *tor.Tor) *hsdir.Consensus {
	const what = "consensus"
	consensus, err := awaitConsensus(ctx, t, families(c.cfg), c.log)
	if err != nil {
		c.fail(what, c.torLog, err)
		return nil
	}
	if err := c.outdated(ctx, t, consensus); err != nil {
		level := LevelFailed
		if consensus.ReasonablyLive(time.Now()) {
			level = LevelWarning
		}
		c.trouble(level, what, c.torLog, err)
		return consensus
	}
	if consensus.Coverage.Missing > 0 {
		c.warn(what, "tor is still fetching; try again in a minute", "%s", consensus.Coverage)
	} else {
		c.ok(what, "of %s, %d HSDirs", utc(consensus.ValidAfter), len(consensus.HSDirs))
	}
	if err := t.Client().ClockError(ctx); err != nil {
		c.warn("clock", "", "%w", err)
	}
	return consensus
}

// earlyConsensus is how long before its time a consensus may arrive without the
// clock being wrong.
const earlyConsensus = 5 * time.Minute

// outdated says why a consensus is not current. If it is from the future, only
// the clock can be wrong; if it has expired, tor is asked for the cause.
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

// checkInstances fetches every instance of a service or shard, which what names, and adds up.
func (c *checker) checkInstances(ctx context.Context, t *tor.Tor, consensus *hsdir.Consensus, what string, s balance.Config) {
	ctx, cancel := context.WithTimeout(ctx, checkFetch)
	defer cancel()
	fetcher := newFetcher(t)
	descriptors := make([]*descriptor.Descriptor, len(s.Instances))
	answers := make([]chan error, len(s.Instances)) // one for each, to tell of them in their order
	for n, i := range s.Instances {
		answers[n] = make(chan error, 1)
		go func() {
			got, err := fetch(ctx, fetcher, consensus, i.Address, i.Client)
			descriptors[n] = got.Descriptor
			answers[n] <- err
		}()
	}
	points, found := 0, 0
	_, name, _ := strings.Cut(what, " ")
	for n, i := range s.Instances {
		err, out := <-answers[n], 0
		if err == nil {
			found++
			out = avoided(ctx, t, consensus, s, descriptors[n])
			offered := len(descriptors[n].IntroductionPoints) - out
			if !s.Ordinary {
				offered = min(offered, s.Room.PerInstance)
			}
			points += offered
		}
		c.instance("instance "+name+" "+i.Name, descriptors[n], out, err)
	}
	c.checkLimit(what, s, found, points)
}

// instance reports the result for one instance, of which some points are avoided.
func (c *checker) instance(what string, d *descriptor.Descriptor, avoided int, err error) {
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
	if note := avoidedNote(avoided, len(d.IntroductionPoints)); note != "" {
		notes = append(notes, note)
	}
	level := LevelOK
	if len(notes) > 0 {
		level = LevelWarning
	}
	c.tell(Finding{
		What: what, Level: level, Fix: strings.Join(notes, "; "),
		Detail: fmt.Sprintf("%s, revision counter %d", printable.Count(len(d.IntroductionPoints), "introduction point"), d.RevisionCounter),
	})
}

// checkLimit says whether the limit of a descriptor leaves points out.
func (c *checker) checkLimit(what string, s balance.Config, found, points int) {
	limit := min(s.Room.Points, descriptor.MaxIntroductionPoints)
	switch {
	case found == 0:
		c.fail(what, "fix the instances above", errors.New("none of its instances can be reached, so nothing would be published"))
	case s.Ordinary:
		c.checkOffer(what, s, points)
	case len(s.Instances) > limit:
		c.warn(what, "use fewer instances, or put several behind one", "%d instances and at most %s: some instances get no clients", len(s.Instances), printable.Count(limit, "introduction point"))
	case points == 0:
		c.warn(what, "have points.avoid name fewer relays", "points.avoid leaves no introduction point of any instance: it is not applied")
	case points > limit:
		c.ok(what, "%d introduction points, of which a descriptor takes %d: strategy %q chooses", points, limit, s.Strategy.Name())
	default:
		c.ok(what, "all %s of %s fit into a descriptor (limit %d)", printable.Count(points, "introduction point"), printable.Count(found, "instance"), limit)
	}
}
