package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/event"
	"onionbalancer/internal/state"
)

// Service is a public address that the configuration of a manager has.
type Service struct {
	Address descriptor.Address
	Group   string // of the services that are certified with the same keys
	Lacking error  // why this manager cannot certify it; nil if it can
}

// Runner publishes the services that this manager owns. Its methods are called one at a
// time.
type Runner interface {
	// Start begins to publish services, and returns the errors of those that it cannot:
	// context.Canceled if it is being stopped.
	Start(context.Context, []descriptor.Address) map[descriptor.Address]error
	// Stop ends services. When it returns nothing is uploaded for them any more, and their
	// records are as they should be for the next owner, if the store answers.
	Stop(context.Context, []descriptor.Address)
}

// Local keeps copies of this manager's records, as *state.DB does.
type Local interface {
	Get(state.Key) (value []byte, version uint64, err error)
	Swap(ctx context.Context, changes ...state.Change) (versions []uint64, err error)
}

// Options say how a Cluster works.
type Options struct {
	Manager string        // the name of this one, which no other has
	Version string        // of the program
	Lease   time.Duration // for how long after its last sign of life a manager is alive
	Store   *Store
	Leases  Leases
	Local   Copies
	Runner  Runner
	Fit     func() error       // why this manager should own nothing while others can; nil: it is fit
	Taking  func(services int) // is told how many are about to be taken and started; nil: nobody is
	Record  event.Recorder
	// Now is the clock of events, and the one that the others are told; nil: time.Now. What
	// follows from signs of life goes by the monotonic clock.
	Now func() time.Time
}

// Cluster decides which services this manager owns, and is where services keep their
// records (balance.Store).
type Cluster struct {
	cfg     Options
	process string        // Member.Process
	before  string        // that of the last process of this manager; keepLease's
	woken   chan struct{} // holds a token when the loop has something to do
	beat    chan struct{} // the same for what the member's key says
	pulse   atomic.Pointer[time.Time]

	turns sync.Mutex // held while the Runner is at work

	mu       sync.Mutex // protects the fields below
	services map[descriptor.Address]*service
	members  map[string]*sight
	beats    map[string][]beat // that were seen, by manager
	unread   map[string]error  // why the keys of managers cannot be read
	lease    lease
	draining bool
	unfit    string               // why it should own nothing while others can
	lastFit  time.Time            // when it last was, or began
	stable   time.Time            // since when the members are the same
	blind    bool                 // the store has not told for long what the others do
	moved    time.Time            // when services were last given to whom they should be with
	taking   map[string]bool      // the owners of which services were to be taken in the last turn
	orphans  []descriptor.Address // sorted
	trouble  map[trouble]error
	counts   Counts
}

// service is what is known of one.
type service struct {
	Service
	owner   string
	term    uint64
	version uint64    // of its record; 0: it has none
	damage  error     // why the record cannot be read
	decided tenure    // owner and term that the last turn decided by, or made
	running uint64    // the term that it is published under by this manager; 0: it is not
	back    time.Time // when its record was seen to be gone, or older than before
	free    time.Time // since when it has been seen without a live owner; zero: it has one
	given   time.Time // when it was last given to whom it should be with
	stays   time.Time // until when it is not given again: that one did not take it
	failed  time.Time // until when it is not started again
	fails   int       // in a row
}

// tenure is an owner of a service in a term.
type tenure struct {
	owner string
	term  uint64
}

// Counts counts what happened since the start.
type Counts struct {
	Taken  uint64 // services that this manager became the owner of
	Dead   uint64 // of Taken, from a manager that showed no sign of life
	Again  uint64 // of Taken, that an earlier process of this manager owned
	Given  uint64 // that it gave up
	Fenced uint64 // that another took while it published them
	Failed uint64 // changes of owners that the store did not make
}

// trouble is a kind of thing that can be wrong.
type trouble string

const (
	troubleMember trouble = "member"
	troubleLease  trouble = "lease"
	troubleOwning trouble = "owning"
	troubleCopy   trouble = "copy"
	troubleOrphan trouble = "orphan"
)

// New returns a Cluster that owns nothing until Run.
func New(cfg Options) *Cluster {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Fit == nil {
		cfg.Fit = func() error { return nil }
	}
	if cfg.Taking == nil {
		cfg.Taking = func(int) {}
	}
	return &Cluster{
		cfg: cfg, process: newProcess(), woken: make(chan struct{}, 1), beat: make(chan struct{}, 1),
		services: map[descriptor.Address]*service{}, members: map[string]*sight{}, beats: map[string][]beat{}, unread: map[string]error{},
		trouble: map[trouble]error{}, lastFit: time.Now(),
	}
}

// Want says which services the configuration of this manager has. Those that it owned and
// that are not among them are given up.
func (c *Cluster) Want(list []Service) {
	c.mu.Lock()
	wanted := make(map[descriptor.Address]bool, len(list))
	var added []state.Key
	for _, s := range list {
		wanted[s.Address] = true
		known := c.services[s.Address]
		if known == nil {
			known = &service{Service: Service{Address: s.Address}} // which does not change, and is read without a lock
			c.services[s.Address] = known
			added = append(added, state.ServiceKey(s.Address))
		}
		if (known.Lacking == nil) != (s.Lacking == nil) {
			known.failed, known.fails = time.Time{}, 0
		}
		known.Group, known.Lacking = s.Group, s.Lacking
	}
	for a, s := range c.services {
		if !wanted[a] {
			s.Lacking = errNotWanted // a turn may be about to start it, and the next one forgets it
		}
	}
	c.mu.Unlock()
	c.note(added)
	wake(c.woken)
	wake(c.beat)
}

var errNotWanted = errors.New("the configuration does not have it")

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// noteAll takes in everything that the store has.
func (c *Cluster) noteAll() {
	c.mu.Lock()
	keys := make([]state.Key, 0, len(c.services)+len(c.members))
	for a := range c.services {
		keys = append(keys, state.ServiceKey(a))
	}
	for name := range c.members {
		keys = append(keys, memberKey(name))
	}
	c.mu.Unlock()
	entries, _ := c.cfg.Store.List(memberPrefix)
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	c.note(keys)
}

// note takes in what the store has of some keys.
func (c *Cluster) note(keys []state.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, back := false, 0
	for _, key := range slices.Sorted(slices.Values(keys)) { // members come before services
		if name, is := strings.CutPrefix(string(key), memberPrefix); is {
			changed = c.noteMemberLocked(name) || changed
		} else if strings.HasPrefix(string(key), state.ServicePrefix) {
			changes, older := c.noteServiceLocked(key)
			if changed = changed || changes; older {
				back++
			}
		}
	}
	if back > 0 {
		c.tell(slog.LevelError, errBack.Error(), slog.Int("services", back))
	}
	if changed {
		wake(c.woken)
	}
}

// errBack says that a record is older than one that the store had before: somebody put it
// back. The manager that publishes the service writes it again.
var errBack = errors.New("the store of the cluster was set back: it has an older record of a service than it gave, or none")

func (c *Cluster) noteMemberLocked(name string) (changed bool) {
	value, version, err := c.cfg.Store.Get(memberKey(name))
	var m Member
	if err == nil && version != 0 {
		err = json.Unmarshal(value, &m)
	}
	if err == nil && version != 0 && m.Manager != name {
		err = errors.New("it is another one's")
	}
	c.unreadLocked(name, err)
	if name == c.cfg.Manager && c.lease.version != 0 && (err != nil || m.Process != c.process) {
		c.lease.version = 0 // the others do not see this one any more
		wake(c.beat)
	}
	known := c.members[name]
	switch {
	case err != nil:
		return false
	case version == 0 && known == nil, known != nil && known.version == version:
		return false
	case version == 0:
		delete(c.members, name)
		c.stable = time.Now()
	default:
		if known == nil || known.Process != m.Process || known.tier() != m.tier() {
			c.stable = time.Now()
		}
		beaten := time.Time{}
		if c.beatsLocked(name, beat{m.Process, m.Beat}) {
			beaten = time.Now()
		} else if known != nil {
			beaten = known.beaten
		}
		c.members[name] = &sight{m, version, beaten, m.Clock.Sub(c.cfg.Now()).Round(time.Second)}
	}
	return true
}

// unreadLocked notes why the key of a manager cannot be read; nil: it can.
func (c *Cluster) unreadLocked(name string, err error) {
	if err == nil && c.unread[name] == nil {
		return
	}
	if delete(c.unread, name); err != nil {
		c.unread[name] = fmt.Errorf("reading the key of manager %q: %w", name, err)
		err = c.unread[name]
	} else if len(c.unread) > 0 {
		err = c.unread[slices.Min(slices.Collect(maps.Keys(c.unread)))]
	}
	c.troubleLocked(troubleMember, err)
}

// beatsLocked reports whether b is a sign of life, and not one that was seen before: who can
// write to the engine may put back what a manager wrote when it lived.
func (c *Cluster) beatsLocked(name string, b beat) bool {
	seen := c.beats[name]
	at := slices.IndexFunc(seen, func(before beat) bool { return before.process == b.process })
	switch {
	case at < 0:
		c.beats[name] = append(seen[max(0, len(seen)-maxBeats+1):], b)
	case seen[at].number >= b.number:
		return false
	default:
		seen[at].number = b.number
	}
	return true
}

// noteServiceLocked reports whether there may be something to do, and whether the record is
// an older one than before.
func (c *Cluster) noteServiceLocked(key state.Key) (changed, older bool) {
	a, err := state.ServiceOf(key)
	s := c.services[a]
	if err != nil || s == nil {
		return false, false
	}
	value, version, err := c.cfg.Store.Get(key)
	var record struct {
		Owner string `json:"owner"`
		Term  uint64 `json:"term"`
	}
	if err == nil && version != 0 {
		err = json.Unmarshal(value, &record)
	}
	changed = (err == nil) != (s.damage == nil)
	if s.damage = err; err != nil {
		return changed, false
	}
	changed = changed || record.Owner != s.owner || record.Term != s.term || (version == 0) != (s.version == 0)
	if older = version != 0 && record.Term < s.term; older || version == 0 && s.version != 0 {
		s.back = time.Now()
	}
	s.owner, s.term, s.version = record.Owner, record.Term, version
	if _, known := c.members[s.owner]; !known && s.owner != "" {
		c.noteMemberLocked(s.owner) // it wrote its key before: it is not dead
	}
	return changed, older
}

// troubleLocked says what is wrong now of one kind; nil: nothing.
func (c *Cluster) troubleLocked(kind trouble, err error) {
	before := c.trouble[kind]
	if err == nil {
		delete(c.trouble, kind)
		return
	}
	c.trouble[kind] = err
	again := before != nil && (before.Error() == err.Error() || kindOf(err) != nil && kindOf(before) == kindOf(err)) // its details change
	if !again {
		c.tell(slog.LevelError, err.Error())
	}
}

func (c *Cluster) tell(level slog.Level, text string, attrs ...slog.Attr) {
	c.cfg.Record(event.Event{At: c.cfg.Now(), Kind: event.Cluster, Level: level, Text: text, Attrs: attrs})
}

// observeLocked gives all members time to show signs of life after the store could not be
// followed for a while, when nobody could.
func (c *Cluster) observeLocked(now time.Time) {
	blind := c.cfg.Store.Age() > 2*beatEvery
	if c.blind && !blind {
		for _, m := range c.members {
			m.beaten = now
		}
	}
	c.blind = blind
}

// aliveLocked lists the live members, this one included while it is one, by name.
func (c *Cluster) aliveLocked(now time.Time) []*Member {
	var list []*Member
	for _, name := range slices.Sorted(maps.Keys(c.members)) {
		if m := c.members[name]; name != c.cfg.Manager && (c.blind || m.alive(now)) {
			list = append(list, &m.Member)
		}
	}
	if c.lease.joined(now, c.cfg.Lease) {
		me := c.selfLocked(now)
		list = append(list, &me)
	}
	return list
}

// selfLocked is what this manager says of itself.
func (c *Cluster) selfLocked(now time.Time) Member {
	m := Member{
		Manager: c.cfg.Manager, Process: c.process, Version: c.cfg.Version, Since: c.lease.since, Draining: c.draining, Unfit: c.unfit,
		Beat: c.lease.beat, Clock: c.cfg.Now().UTC(),
	}
	lacks, groups := map[string][]state.Address{}, map[string]bool{}
	for a, s := range c.services {
		if s.running != 0 {
			m.Owned++
		}
		if s.Lacking != nil || now.Before(s.failed) {
			lacks[s.Group] = append(lacks[s.Group], state.Address(a))
		} else {
			groups[s.Group] = true
		}
	}
	for g := range groups {
		if len(lacks[g]) <= maxLacks {
			m.Groups = append(m.Groups, g)
			m.Lacks = append(m.Lacks, lacks[g]...)
		}
	}
	slices.Sort(m.Groups)
	slices.SortFunc(m.Lacks, func(a, b state.Address) int { return bytes.Compare(a[:], b[:]) })
	return m
}

// byAddress orders services.
func byAddress(a, b *service) int { return compareAddresses(a.Address, b.Address) }

func compareAddresses(a, b descriptor.Address) int { return bytes.Compare(a[:], b[:]) }

// orphansLocked tells which services no live manager can certify.
func (c *Cluster) orphansLocked(list []descriptor.Address) {
	c.orphans = list
	var err error
	if len(list) > 0 {
		err = fmt.Errorf("%d services have no manager that can certify them, %s among them: HSDirs drop their descriptors after three hours", len(list), list[0].Short())
	}
	c.troubleLocked(troubleOrphan, err)
}

// tellOf records that something is true of services, by who owns them in the store:
// another manager, nobody, or this one.
func (c *Cluster) tellOf(list []*service, another, nobody, own string) {
	of := map[string]int{}
	c.mu.Lock()
	for _, s := range list {
		of[s.owner]++
	}
	c.mu.Unlock()
	for owner, n := range of {
		switch owner {
		case c.cfg.Manager:
			c.tell(slog.LevelInfo, own, slog.Int("services", n))
		case "":
			c.tell(slog.LevelInfo, nobody, slog.Int("services", n))
		default:
			c.tell(slog.LevelWarn, another, slog.String("manager", owner), slog.Int("services", n))
		}
	}
}
