package balance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
)

// publicSlots are the slots of a descriptor on the public network, at the HSDirs numbered
// from n.
func publicSlots(n byte) (list []hsdir.Slot) {
	for i := range byte(8) {
		list = append(list, hsdir.Slot{HSDir: [20]byte{n + i}, Replica: 1 + int(i)%2, Reserve: i >= 6})
	}
	return list
}

// wideView is a view of both descriptors on the public network, with room for few
// points, so that slots hold different ones.
func wideView(room int, members ...*member) View {
	v := testView(0, members...)
	v.Config.Room.Points = room
	v.Targets[0].Slots, v.Targets[1].Slots = publicSlots(10), publicSlots(100)
	v.Targets[0].Credential, v.Targets[1].Credential = testCredential, testLater
	v.valid = [2]time.Time{testNow.Truncate(time.Hour), testNow.Truncate(time.Hour).Add(3 * time.Hour)}
	v.outdated = 2 * time.Hour
	return v
}

// crowdOf returns n instances with one point each.
func crowdOf(n int) (list []*member) {
	for i := range byte(n) {
		list = append(list, testMember(string('A'+rune(i)), i+1))
	}
	return list
}

// carryOut does to s what the loop would after a plan of v, and all HSDirs confirm.
func (s *State) carryOut(v View) Plan {
	p := makePlan(v, *s)
	if s.Editions == nil {
		s.Editions = map[descriptor.Period]*Edition{}
	}
	s.Published, s.Shares, s.hidden = p.Chosen, p.Shares, p.hidden
	for n := range p.Targets {
		t := &p.Targets[n]
		last := s.Editions[t.Keys.Period]
		switch {
		case t.Reason == "" && last != nil:
			last.share(t)
			last.wants = time.Time{}
		case t.Gathers && last != nil && last.wants.IsZero():
			last.wants = v.Now
		case t.Reason != "" && t.Held == "":
			e := newEdition(v.Now, t, last, 7)
			e.Refresh, e.due = v.Now.Add(time.Hour), v.Now.Add(time.Hour)
			for n := range e.slots {
				e.slots[n].confirmed, e.heard = v.Now, v.Now
			}
			s.Editions[t.Keys.Period] = e
		}
	}
	return p
}

// heldBy tells what each HSDir of a list of places has.
func heldBy(places []place) map[[20]byte]string {
	list := map[[20]byte]string{}
	for _, p := range places {
		text := ""
		for _, key := range p.holding.keys() {
			text += fmt.Sprint(" ", key[0])
		}
		list[p.HSDir] = text
	}
	return list
}

func (p *Plan) reasons() (list [2]Reason) {
	for n, t := range p.Targets {
		list[n] = t.Reason
	}
	return list
}

// What HSDirs hold stays theirs whatever happens to others.
func TestContentsBelongToHSDirs(t *testing.T) {
	members := crowdOf(12)
	view := func() View { return wideView(4, members...) }
	var s State
	p := s.carryOut(view())
	first := heldBy(p.Targets[0].places)
	distinct := map[string]bool{}
	for _, text := range first {
		distinct[text] = true
	}
	if len(distinct) < 3 || len(p.Chosen) != 12 || len(p.Shares) != 12 {
		t.Fatalf("%d different contents with %d of 12 points: %v", len(distinct), len(p.Chosen), first)
	}
	// The other descriptor has the same, slot by slot.
	for n, at := range p.Targets[1].places {
		if at.holding != p.Targets[0].places[n].holding {
			t.Errorf("slot %d of the second descriptor holds something else", n)
		}
	}
	same := func(when string, p Plan, but ...[20]byte) {
		t.Helper()
		for h, text := range heldBy(p.Targets[0].places) {
			if !slices.Contains(but, h) && first[h] != "" && text != first[h] {
				t.Errorf("%s: HSDir %d holds%s, and held%s", when, h[0], text, first[h])
			}
		}
	}
	again := s.carryOut(view())
	if same("again", again); again.reasons() != [2]Reason{} {
		t.Errorf("again: made for %q", again.reasons())
	}
	// A gap: an HSDir that does not answer changes nothing.
	s.Editions[testPeriod].slots[2].confirmed = time.Time{}
	gap := s.carryOut(view())
	if same("a gap", gap); gap.reasons() != [2]Reason{} {
		t.Errorf("a gap: made for %q", gap.reasons())
	}
	// One HSDir leaves, another joins in its place: of the same replica.
	v := view()
	v.Now = v.Now.Add(time.Second)
	newcomer := [20]byte{99}
	left := v.Targets[0].Slots[3].HSDir
	v.Targets[0].Slots[3].HSDir = newcomer
	ring := s.carryOut(v)
	same("another ring", ring)
	if got := heldBy(ring.Targets[0].places); got[newcomer] != first[left] || got[left] != first[left] {
		t.Errorf("another ring: the new one holds%s, the one that left%s, and held%s", got[newcomer], got[left], first[left])
	}
	if ring.reasons() != [2]Reason{ReasonHSDirs, ""} || !ring.Targets[0].places[8].Left {
		t.Errorf("another ring: made for %q", ring.reasons())
	}
	// It comes back: it has the edition, and clients ask it again.
	back := s.carryOut(view())
	same("the first ring again", back)
	if e := s.Editions[testPeriod]; back.reasons() != [2]Reason{} || e.slot(left).Left || e.slot(left).Reserve || !e.slot(newcomer).Left || !e.slot(newcomer).Reserve {
		t.Errorf("the first ring again: made for %q, and the one that is back is %+v", back.reasons(), e.slot(left).Slot)
	}
	s.carryOut(v)
	// Two consensuses later nobody asks the one that left.
	for hours := range 3 {
		v.Now, v.valid[0], v.valid[1] = v.Now.Add(15*time.Minute), v.valid[0].Add(time.Hour), v.valid[1].Add(time.Hour)
		later := s.carryOut(v)
		if places := later.Targets[0].places; (len(places) == 9) != (hours < 1) || later.reasons() != [2]Reason{} {
			t.Errorf("%d hours later: %d slots, made for %q", hours+1, len(places), later.reasons())
		}
	}
}

// A restart publishes again what every HSDir has, for the same turn.
func TestRestartKeepsContents(t *testing.T) {
	v := wideView(4, crowdOf(12)...)
	var before State
	p := before.carryOut(v)
	for n := range before.Editions {
		before.Editions[n].Turn = 5
	}
	config := v.Config
	old := &Service{cfg: config, state: before}
	stored := old.written(old.counters)
	if len(stored.Points) != 12 || len(stored.Made) != 2 || len(stored.Made[1].Slots) != 8 || stored.Made[0].Turn != 5 {
		t.Fatalf("%d points, %+v", len(stored.Points), stored.Made)
	}
	restarted := &Service{cfg: config, state: State{Editions: map[descriptor.Period]*Edition{}}, troubles: troubles{}, counters: counters{}}
	restarted.restore(read{stored: stored})
	v.Now = v.Now.Add(time.Minute)
	after := makePlan(v, restarted.state)
	for n := range after.Targets {
		got, want := heldBy(after.Targets[n].places), heldBy(p.Targets[n].places)
		for h := range want {
			if got[h] != want[h] {
				t.Errorf("HSDir %d holds%s, and held%s", h[0], got[h], want[h])
			}
		}
		if after.Targets[n].Reason != ReasonNew || after.Targets[n].Turn != 5 || after.Targets[n].Refresh {
			t.Errorf("made for %q in turn %d", after.Targets[n].Reason, after.Targets[n].Turn)
		}
		if stored.Made[n].Contents != digest(after.Targets[n].places, nil) {
			t.Error("another digest")
		}
	}
	// Of a record without slots, all of them had all points.
	for n := range stored.Made {
		stored.Made[n].Slots = nil
	}
	restarted.state.Before = nil
	restarted.restore(read{stored: stored})
	for _, b := range restarted.state.Before {
		if len(b.places) != 1 || len(b.places[0].holding.IntroductionPoints) != 12 {
			t.Errorf("without slots: %+v", b.places)
		}
	}
}

// Few points are in all slots, which share them, and the record needs no list of slots.
func TestFewPointsAreShared(t *testing.T) {
	v := wideView(20, testMember("a", 1, 2), testMember("b", 3, 4))
	var s State
	p := s.carryOut(v)
	for _, target := range p.Targets {
		for n, at := range target.places {
			if at.holding != p.Targets[0].places[0].holding {
				t.Errorf("slot %d of the %s descriptor has contents of its own", n, target.Role)
			}
		}
	}
	service := &Service{cfg: v.Config, state: s}
	if stored := service.written(service.counters); len(stored.Made[0].Slots)+len(stored.Made[1].Slots) != 0 || len(stored.Points) != 4 {
		t.Errorf("stored: %+v", stored)
	}
}

// Changes of one kind that follow each other soon make one edition.
func TestGathered(t *testing.T) {
	var s State
	now := testNow
	step := func(after time.Duration, change func(v *View), members ...*member) Target {
		now = now.Add(after)
		v := wideView(20, members...)
		v.Now = now
		for _, b := range v.Instances.Backends {
			b.Seen, b.Heard = now, now
		}
		if change != nil {
			change(&v)
		}
		return s.carryOut(v).Targets[0]
	}
	a, b, c, d := testMember("a", 1, 2, 3), testMember("b", 4, 5), testMember("c", 6), testMember("d", 7)
	e, f, g := testMember("e", 8), testMember("f", 9), testMember("g", 10)
	clients := func(v *View) { v.Config.Clients = []descriptor.AuthorizedClient{{PublicKey: [32]byte{9}}} }
	moved := func(v *View) { clients(v); v.Targets[0].Slots[0].HSDir = [20]byte{98} }
	due := func(v *View) {
		moved(v)
		for _, e := range s.Editions {
			e.Refresh, e.due = now, now
		}
	}
	short := testMember("a", 1, 2)
	shorter := testMember("a", 1)
	for _, test := range []struct {
		what    string
		after   time.Duration
		change  func(v *View)
		members []*member
		reason  Reason
		gathers bool
	}{
		{"the first", 0, nil, []*member{a}, ReasonNew, false},
		{"an addition", time.Second, nil, []*member{a, b}, ReasonChanged, false},
		{"another soon", time.Second, nil, []*member{a, b, c}, ReasonChanged, true},
		{"still", 4*time.Minute + 58*time.Second, nil, []*member{a, b, c}, ReasonChanged, true},
		{"when the time is over", time.Second, nil, []*member{a, b, c}, ReasonChanged, false},
		{"one more", time.Second, nil, []*member{a, b, c, d}, ReasonChanged, true},
		{"a point died", time.Second, nil, []*member{short, b, c, d}, ReasonChanged, false},
		{"another died soon", 10 * time.Second, nil, []*member{short, b, d}, ReasonChanged, true},
		{"still, and another", 19 * time.Second, nil, []*member{shorter, b, d}, ReasonChanged, true},
		{"both when the half minute is over", time.Second, nil, []*member{shorter, b, d}, ReasonChanged, false},
		{"none lives", time.Second, nil, []*member{c}, ReasonChanged, false},
		{"as many again", time.Second, nil, []*member{c, d}, ReasonChanged, false},
		{"twice as many soon", time.Second, nil, []*member{a, b, c, d}, ReasonChanged, true},
		{"these after half a minute", 29 * time.Second, nil, []*member{a, b, c, d}, ReasonChanged, false},
		{"an addition soon after the last", 40 * time.Second, nil, []*member{a, b, c, d, e}, ReasonChanged, true},
		{"other clients", time.Second, clients, []*member{a, b, c, d, e}, ReasonClients, false},
		{"another one", time.Second, clients, []*member{a, b, c, d, e, f}, ReasonChanged, true},
		{"another HSDir", time.Second, moved, []*member{a, b, c, d, e, f}, ReasonHSDirs, false},
		{"one more addition", time.Second, moved, []*member{a, b, c, d, e, f, g}, ReasonChanged, true},
		{"the refresh is due", time.Second, due, []*member{a, b, c, d, e, f, g}, ReasonRefresh, false},
	} {
		got := step(test.after, test.change, test.members...)
		if got.Reason != test.reason || got.Gathers != test.gathers || (got.Held != "") != test.gathers {
			t.Errorf("%s: %q, held %q, want %q, %v", test.what, got.Reason, got.Held, test.reason, test.gathers)
		}
	}
}

// An instance that was taken out while others' end is gathered waits for that, and not for
// fetches in flight as well.
func TestGatheredIsUrgent(t *testing.T) {
	var s State
	a, b, c := testMember("a", 1), testMember("b", 2), testMember("c", 3)
	plan := func(after time.Duration, members ...*member) Plan {
		v := wideView(20, members...)
		v.Now = testNow.Add(after)
		return s.carryOut(v)
	}
	for _, test := range []struct {
		what    string
		after   time.Duration
		members []*member
		heeds   bool
	}{
		{"the first", 0, []*member{a, b, c}, true},
		{"one died", time.Second, []*member{b, c}, true},
		{"another soon", 2 * time.Second, []*member{c}, false},
		{"when the half minute is over", 31 * time.Second, []*member{c}, true},
		{"one came", 32 * time.Second, []*member{b, c}, true},
		{"another soon, which is not urgent", 33 * time.Second, []*member{a, b, c}, true},
	} {
		p := plan(test.after, test.members...)
		if p.heeds() != test.heeds {
			t.Errorf("%s: %v, %q", test.what, p.heeds(), p.Targets[0].Held)
		}
	}
	if p := (Plan{Waiting: "x"}); p.heeds() {
		t.Error("a plan that decided nothing heeds what is urgent")
	}
}

// A service that is to look ordinary publishes to no HSDirs that left.
func TestOrdinarySlots(t *testing.T) {
	for ordinary, want := range map[bool]int{true: 8, false: 9} {
		var s State
		v := wideView(20, testMember("a", 1, 2))
		s.carryOut(v)
		v.Config.Ordinary = ordinary
		v.Targets[0].Slots[3].HSDir = [20]byte{99}
		if p := makePlan(v, s); len(p.Targets[0].places) != want {
			t.Errorf("ordinary %v: %d slots, want %d", ordinary, len(p.Targets[0].places), want)
		}
	}
}

// After a restart, an HSDir that left the ring before still gets what the others do.
func TestRestartKnowsWhoLeft(t *testing.T) {
	for limit, members := range map[int][]*member{20: {testMember("a", 1, 2), testMember("b", 3, 4)}, 4: crowdOf(12)} {
		var before State
		v := wideView(limit, members...)
		before.carryOut(v)
		gone := v.Targets[0].Slots[3].HSDir
		v.Targets[0].Slots[3].HSDir = [20]byte{99}
		v.Now = v.Now.Add(time.Second)
		before.carryOut(v)
		old := &Service{cfg: v.Config, state: before}
		restarted := &Service{cfg: v.Config, state: State{Editions: map[descriptor.Period]*Edition{}}, troubles: troubles{}, counters: counters{}}
		restarted.restore(read{stored: old.written(old.counters)})
		p := makePlan(v, restarted.state)
		if n := len(p.Targets[0].places); n != 9 {
			t.Fatalf("room for %d: %d slots, want 9", limit, n)
		}
		if at := p.Targets[0].places[8]; at.HSDir != gone || !at.Left || at.holding.empty() {
			t.Errorf("room for %d: the one that left: %+v", limit, at)
		}
		if n := len(p.Targets[1].places); n != 8 {
			t.Errorf("room for %d: %d slots of the other descriptor, want 8", limit, n)
		}
	}
}
