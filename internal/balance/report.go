package balance

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/internal/event"
	"onionbalancer/internal/health"
	"onionbalancer/internal/status"
	"onionbalancer/selection"
)

// troubles are the service's current errors, by their kind.
type troubles map[string]error

const (
	troubleFloors   = "state"
	troubleCounters = "stored counters"
	troubleNetwork  = "network"
	troublePublish  = "publishing"
	troubleReadback = "read back"
	troubleClients  = "clients"
	troubleVisit    = "visits"
	troubleAdvice   = "advice"
)

// set records err under kind, or clears it if err is nil.
func (t troubles) set(kind string, err error) {
	if err == nil {
		delete(t, kind)
		return
	}
	t[kind] = err
}

// list returns the texts, in a stable order.
func (t troubles) list() []string {
	var texts []string
	for _, err := range t {
		texts = append(texts, err.Error())
	}
	slices.Sort(texts)
	return texts
}

// lack says what the service lacks because of missing instances.
type lack int

const (
	lackNone     lack = iota
	lackInstance      // none is ok: the last known points are published
	lackAll           // nor is any point known: the published points stay
	lackPoints        // and nothing was published either
	lackChoice        // instances are ok, but the strategy chooses no point
	lackService       // those that are not taken out are unreachable
)

// warning is the status's warning about it.
func (l lack) warning() string {
	switch l {
	case lackInstance:
		return "no instance is reachable: the last good introduction points stay published"
	case lackAll:
		return "no instance is reachable: introduction points of instances that are no longer configured stay published until they expire"
	case lackPoints:
		return "no instance is reachable, and there is nothing to publish"
	case lackChoice:
		return "the strategy chooses no introduction point of any instance: points published before stay until they expire"
	case lackService:
		return "no instance is in service: all are taken out or unreachable; points published before stay until they expire"
	}
	return ""
}

// startPatience is how long after the start fetching the instances may take.
const startPatience = time.Minute

// lacks returns what is missing after a plan.
func (s *Service) lacks(now time.Time, p *Plan) lack {
	switch {
	case s.cfg.Withdrawn:
		return lackNone
	case !p.Fallback && len(p.Chosen) == 0:
		return lackChoice
	case !p.Fallback:
		return lackNone
	case len(p.Chosen) > 0:
		return lackInstance
	case p.Contents != nil && len(p.Out) > 0:
		return lackService
	case p.Contents != nil:
		return lackAll
	case now.Sub(s.started) < startPatience:
		return lackNone
	}
	return lackPoints
}

// noteLack records it at level error, once, when the last instance is lost, and again
// when one is back.
func (s *Service) noteLack(l lack) {
	if l == s.report.lack {
		return
	}
	s.report.lack = l
	if l == lackNone {
		s.tell(event.Lack, slog.LevelInfo, "an instance is reachable again")
		return
	}
	points := 0
	for _, e := range s.state.Editions {
		points = max(points, e.points())
	}
	s.tell(event.Lack, slog.LevelError, l.warning(), slog.Int("points", points))
}

// noteShares records when an instance's share of the clients falls to half of what it
// was, or less, and to less than half of what it should be: more instances leave less for
// each. It says nothing while instances take turns, or when a turn ends: some then have
// few places, and more in another.
func (s *Service) noteShares(v backend.View) {
	if s.plan.OverTurns != nil || slices.ContainsFunc(s.plan.Targets, func(t Target) bool { return t.Refresh }) {
		return
	}
	weights, total := make([]float64, len(s.cfg.Instances)), 0.0
	for n, i := range s.cfg.Instances {
		if s.plan.Out[i.Name]+s.plan.Down[i.Name] != "" {
			continue
		}
		weights[n] = 1
		if selection.Weighs(s.cfg.Strategy.Name()) {
			weights[n] = v.Weigh(n, i.Weight)
		}
		total += weights[n]
	}
	for n, i := range s.cfg.Instances {
		was, is := s.state.Shares[i.Name], s.plan.Shares[i.Name]
		if was > 0 && is <= was/2 && is < weights[n]/total/2 {
			s.tell(event.ShareFell, slog.LevelWarn, "an instance's share of the clients fell", slog.String("instance", i.Name),
				slog.Float64("percent", math.Round(100*is)), slog.Float64("was", math.Round(100*was)))
		}
	}
}

// report is the last reported state of a service.
type report struct {
	lack      lack
	published time.Time // first confirmation of an HSDir
	warnings  []string
	seen      seen
}

// seen is what the last turn saw, but for what is large and there anyway.
type seen struct {
	unreached        map[descriptor.Address]string
	role             hsdir.Role // of the descriptor that clients fetch
	targets          [2]ViewTarget
	valid            [2]time.Time
	offset, outdated time.Duration
}

func (n *seen) current() *ViewTarget { return &n.targets[n.role] }

// seed is that of the last view.
func (n *seen) seed() [32]byte { return View{Current: n.role, Targets: n.targets}.seed() }

// lastView is the view of the last turn, with what its instances and its configuration are
// now.
func (s *Service) lastView(now time.Time) View {
	n := &s.report.seen
	return View{
		Now: now, Config: s.cfg, Instances: s.instances.View(),
		Unreached: n.unreached, Current: n.role, Targets: n.targets, valid: n.valid, offset: n.offset, outdated: n.outdated,
	}
}

// tellRound records the changes of a turn.
func (s *Service) tellRound(v View) {
	if v.Targets[0].Ring != nil {
		s.report.seen = seen{v.Unreached, v.Current, v.Targets, v.valid, v.offset, v.outdated}
	}
	if s.plan.Waiting == "" && !s.plan.At.IsZero() {
		s.noteLack(s.lacks(v.Now, &s.plan))
	}
	warnings := s.warnings(v)
	if !s.cfg.Hosted { // else there is always one somewhere, among the HSDirs of thousands
		warnings = append(warnings, s.liars()...)
	}
	for _, w := range warnings {
		if !slices.Contains(s.report.warnings, w) {
			s.tell(event.Warning, slog.LevelWarn, w)
		}
	}
	s.report.warnings = warnings
	s.tellPaths(v)
	s.keys.Warn(v.Now)
}

// warnings lists the service's problems, except those of its keys.
func (s *Service) warnings(v View) []string { return append(s.own(), s.common(v)...) }

// own lists the problems that are the service's own.
func (s *Service) own() []string {
	list := s.troubles.list()
	for _, t := range s.plan.Targets {
		if t.Held != "" && !t.Gathers {
			list = append(list, "the "+t.Role.String()+" descriptor is not renewed: "+t.Held)
		}
	}
	return list
}

// common lists the problems that all services with the same instances have.
func (s *Service) common(v View) (list []string) {
	if v.Instances.StoreErr != nil {
		list = append(list, "storing what is known of the instances: "+v.Instances.StoreErr.Error())
	}
	if s.report.lack != lackNone {
		list = append(list, s.report.lack.warning())
	}
	if s.plan.Panic {
		list = append(list, panicWarning)
	}
	if s.plan.Lifted {
		list = append(list, liftedWarning)
	}
	list = append(list, s.suspicions(v)...)
	if !v.valid[0].IsZero() {
		list = append(list, clockWarning(v.Now, v.valid[0], v.valid[1])...)
	}
	return list
}

const panicWarning = "panic: checks fail for more instances than may be taken out, or for reasons that may be our own tor's: some stay in use"

// suspicions lists what instances do that a healthy tor would not.
func (s *Service) suspicions(v View) (texts []string) {
	for n, b := range v.Instances.Backends {
		name := v.Config.Instances[n].Name
		if victim := s.plan.Thefts[name]; victim != "" {
			texts = append(texts, fmt.Sprintf("instance %s offers keys of introduction points that %s had first, which are left out: "+
				"one of the two copies the other's, look for an intruder at both, first at %s", name, victim, name))
		}
		if b.Restless {
			texts = append(texts, fmt.Sprintf("instance %s changes its introduction points too often: "+
				"it is asked for every %s only", name, backend.ChangesEvery))
		}
	}
	return texts
}

// describe returns the status of the service.
func (s *Service) describe(now time.Time) status.Service {
	out := status.Service{
		Address: s.address.String(), State: status.StateStarting, Strategy: s.cfg.Strategy.Name(), Profile: s.cfg.Profile(),
		ReservedUntil: s.record.until, Rounds: s.rounds, LastRound: s.lastRound, ReadBack: s.readback.at, Visited: s.visits.passed, Clients: len(s.cfg.Clients),
	}
	if s.instances == nil {
		out.Custody = s.keys.Status(now, descriptor.Period{})
		return out
	}
	v := s.lastView(now)
	out.Panic = s.plan.Panic
	if s.visits.err != nil {
		out.VisitError = s.visits.err.Error()
	}
	if !s.report.published.IsZero() {
		seconds := s.report.published.Sub(s.started).Seconds()
		out.FirstAnswer = &seconds
	}
	current := v.Targets[v.Current].Keys.Period
	missing := false // an instance that should have clients
	for n := range v.Instances.Backends {
		i := v.offering(n)
		line := i.report(now, s.state.Published, s.state.Shares, s.plan.Left[i.Name])
		if why := s.plan.Down[i.Name]; why != "" {
			line.Warnings = append(line.Warnings, "it is left out: "+why)
		}
		s.describePath(v, &line)
		line.Admin = string(v.Instances.Admin(n))
		switch taken := v.Instances.TakenOut(n) != ""; {
		case s.cfg.Withdrawn:
		case taken:
			if line.Drain = s.describeDrain(v, n); line.Drain.Stays {
				line.Published = s.state.Editions[current].pointsOf(v.Instances.Backends[n].Address)
			}
		case s.started.IsZero(): // nothing is published here
		case i.idle(line) && s.advised.drops(i.Name):
			line.Warnings = append(line.Warnings, "the strategy's program gives it no clients")
		case i.idle(line) && line.Path == "" && s.plan.OverTurns == nil: // else it has its turn
			line.Warnings = append(line.Warnings, whyIdle(line.IntroductionPoints-len(s.plan.Left[i.Name])))
			missing = true
		case line.State != status.StateOK, line.Path != "":
			missing = true
		}
		out.Instances = append(out.Instances, line)
	}
	out.NextFetch = v.Instances.NextFetch()
	out.Descriptors = s.describeEditions(current)
	out.Warnings = slices.Concat(s.warnings(v), s.keys.Warnings(now))
	if text := s.keys.Outlook(); text != "" {
		out.Warnings = append(out.Warnings, text)
	}
	out.Custody = s.keys.Status(now, current)
	out.State = s.sum(now, current, missing || len(out.Warnings) > 0)
	out.Warnings = append(out.Warnings, s.liars()...) // which do not degrade the service
	return out
}

// report describes one instance. left says why some of its points are left out.
func (o *offering) report(now time.Time, chosen []selection.Candidate, shares map[string]float64, left []string) status.Instance {
	out := status.Instance{
		Name:               o.Name,
		Address:            o.Instance.Address.String(),
		State:              o.State(now),
		IntroductionPoints: o.Usable(now),
		Share:              shares[o.Name],
		LastFetch:          o.Asked,
		NextFetch:          o.Due,
		Weight:             o.Weight,
		Load:               o.load(now),
		Check:              o.checked(),
	}
	if out.State == status.StateOK && o.Health.Out() {
		out.State = status.StateDown
	}
	if o.Word.Says() {
		out.Said = &status.Said{Since: o.Word.Since, Weight: o.Word.Weight.String()}
	}
	if o.Err != nil {
		out.Error = o.Err.Error()
	}
	at, exact := o.Backend.Published()
	out.Renewed, out.RenewedBefore = at, !exact && !at.IsZero()
	for _, c := range chosen {
		if c.Instance == o.Name {
			out.Published++
		}
	}
	d := o.Descriptor
	if d == nil {
		return out
	}
	out.Revision = d.RevisionCounter
	if len(d.PowParams) > 0 {
		out.Warnings = append(out.Warnings, "the instance asks for proof of work, which clients of the public address cannot give: "+
			"set HiddenServicePoWDefensesEnabled 0 in its torrc")
	}
	if d.FlowControl == nil {
		out.Warnings = append(out.Warnings, "the instance offers no congestion control, so transfers through it are slower; "+
			"where most instances do, it is left out")
	}
	if n := len(d.Dropped); n > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%d of its introduction points cannot be used: %v", n, d.Dropped[0]))
	}
	out.Warnings = append(out.Warnings, counted(left)...)
	return out
}

// load describes the load of an instance; nil if none was told.
func (o *offering) load(now time.Time) *status.Load {
	if o.Told.At(now) == nil {
		return nil
	}
	return &status.Load{Value: o.Told.Value, Until: o.Told.Until}
}

// checked describes the checks of an instance; nil if there are none.
func (o *offering) checked() *status.Check {
	h := &o.Health
	if o.Check.Kind == health.None || o.Check.Kind == "" || o.Word.Admin == health.Maint {
		return nil
	}
	out := &status.Check{
		Kind: string(o.Check.Kind), Operating: string(h.Operating), Since: h.Since, Doubt: h.Doubt, Held: h.Held,
		At: h.Last.Ended, Seconds: h.Last.Ended.Sub(h.Last.Began).Seconds(), Passed: h.Passed, Failed: h.Failed, DeadPoints: len(h.Dead), Text: h.Text,
	}
	if err := cmp.Or(h.Unmade, h.Last.Err); err != nil {
		out.Error = err.Error()
	}
	return out
}

// describePath fills in what is known of the way from the public address to an
// instance.
func (s *Service) describePath(v View, line *status.Instance) {
	address := s.addressOf(line.Name)
	line.Path = v.Unreached[address]
	if p := s.visits.paths[address]; p != nil {
		line.Visited = p.Answered()
	}
	if line.Path != "" && line.Published > 0 { // else it is left out, and that is said
		line.Warnings = append(line.Warnings, unreachedText(line.Path))
	}
	if s.env.Probe == nil {
		return
	}
	if probe := s.env.Probe(address); probe.Address != (descriptor.Address{}) {
		line.Probe, line.ProbePublished = probe.Address.String(), probe.Published
		if probe.Unproven() {
			line.Warnings = append(line.Warnings, "its probe address does not answer: "+lacks(probe.Address)+restartFix)
		}
	}
}

// idle reports whether an instance that should get clients gets none.
func (o *offering) idle(r status.Instance) bool {
	return r.State == status.StateOK && r.Published == 0 && r.Weight > 0
}

// whyIdle returns the warning about an idle instance, some of whose points are not left
// out.
func whyIdle(some int) string {
	if some <= 0 {
		return "none of its introduction points is published, as all are left out: it gets no clients"
	}
	return "none of its introduction points is published: it gets no clients until it has one on a relay where no other instance's was first"
}

// counted returns each text once, with its count.
func counted(texts []string) (out []string) {
	texts = slices.Sorted(slices.Values(texts))
	for len(texts) > 0 {
		n := 1
		for n < len(texts) && texts[n] == texts[0] {
			n++
		}
		text := texts[0]
		if n > 1 {
			text += fmt.Sprintf(" (%d times)", n)
		}
		out, texts = append(out, text), texts[n:]
	}
	return out
}

// describeEditions describes both descriptors.
func (s *Service) describeEditions(current descriptor.Period) []status.Descriptor {
	var list []status.Descriptor
	for _, e := range s.state.inOrder() {
		d := status.Descriptor{
			Which: e.Role.String(), Period: e.Keys.Period.Number, Minutes: e.Keys.Period.Minutes(),
			Current: e.Keys.Period == current, Points: e.points(),
			Revision: e.Revision, Reason: string(e.Reason), Built: e.Built, Refresh: e.Refresh,
		}
		for _, at := range e.slots {
			slot := status.Slot{
				Replica: at.Replica, HSDir: hsdir.Relay{Fingerprint: at.HSDir}.Hex(), Reserve: at.Reserve,
				Confirmed: !at.confirmed.IsZero(), At: at.confirmed, Attempts: int(at.attempts),
				Points: len(at.holding.IntroductionPoints),
			}
			if at.err != nil {
				slot.Error = at.err.Error()
			}
			if read := s.readback.readings[at.HSDir]; d.Current && !read.at.IsZero() {
				slot.ReadBack, slot.Holds, slot.Revision = read.at, read.holds, read.revision
			}
			if at.Left {
				d.Left = append(d.Left, slot)
				continue
			}
			if slot.Confirmed {
				d.Confirmed++
			}
			d.Slots = append(d.Slots, slot)
		}
		list = append(list, d)
	}
	return list
}

// sum returns the state of the service as a whole; lesser says that something is missing
// or warned of.
func (s *Service) sum(now time.Time, current descriptor.Period, lesser bool) status.State {
	e := s.state.Editions[current]
	published, stays := e.published() || s.goesOn() != nil, e != nil && now.Sub(e.heard) < keptFor
	switch {
	case s.report.lack != lackNone:
		return status.StateFailed
	case !published && stays:
		return status.StateDegraded // an earlier one is still on the HSDirs
	case !published && s.keys.CannotSign(current):
		return status.StateFailed
	case !published:
		return status.StateStarting
	case lesser:
		return status.StateDegraded
	}
	return status.StateOK
}

// clockWarning compares the clock with the consensus, on which many agreed.
func clockWarning(now, validAfter, validUntil time.Time) []string {
	switch {
	case now.Before(validAfter.Add(-5 * time.Minute)):
		return []string{fmt.Sprintf("the clock is behind the Tor network's, whose consensus of %s has arrived: set it right",
			clock(validAfter))}
	case now.After(validUntil):
		return []string{fmt.Sprintf("the consensus ended at %s: tor cannot reach the network, or the clock is ahead",
			clock(validUntil))}
	}
	return nil
}

// clock writes a time as people read it, with its zone.
func clock(t time.Time) string { return t.UTC().Format(time.DateTime + " UTC") }
