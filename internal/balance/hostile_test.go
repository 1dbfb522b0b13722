package balance

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/backend"
	"onionbalancer/selection"
)

// hostileCases is how many cases each of the properties below is tried in.
func hostileCases() int {
	if soaking() {
		return 10000
	}
	return 2000
}

// checkMany is rapid.Check with that many cases.
func checkMany(t *testing.T, prop func(*rapid.T)) {
	t.Helper()
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	if err := checks.Value.Set(fmt.Sprint(hostileCases())); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = checks.Value.Set(before) }()
	rapid.Check(t, prop)
}

// member is an instance with what it offers.
type member struct {
	Instance
	*backend.Backend
}

// adopt takes what the instance holds as its offer.
func (m *member) adopt(now time.Time) {
	seen := m.Offer.FirstSeen()
	m.Offer = backend.OfferOf(m.Descriptor)
	m.Offer.Date(seen, now)
}

// world is a service with instances of which the last, M, is hostile, as far as
// the choice of points goes.
type world struct {
	t         *rapid.T
	now       time.Time
	relays    int
	keys      uint32
	instances []*member // M last
	claims    backend.Claims
	strategy  selection.Strategy
	random    *rand.Rand

	chosen   []selection.Candidate
	contents *descriptor.Contents
	genuine  map[backend.ID]string // whose points introduce clients to an instance
}

func relayNamed(n int) []descriptor.LinkSpecifier {
	rsa, ed := make([]byte, 20), make([]byte, 32)
	binary.BigEndian.PutUint32(rsa, uint32(n))
	binary.BigEndian.PutUint32(ed, uint32(n))
	return []descriptor.LinkSpecifier{
		{Type: descriptor.LinkIPv4, Data: []byte{10, 0, byte(n >> 8), byte(n), 1, 187}},
		{Type: descriptor.LinkRSA, Data: rsa}, {Type: descriptor.LinkEd25519, Data: ed},
	}
}

// vouch stands for the consensus of w.
func (w *world) vouch(p *descriptor.IntroductionPoint) (*descriptor.IntroductionPoint, error) {
	rsa := p.LinkSpecifiers[slices.IndexFunc(p.LinkSpecifiers, func(l descriptor.LinkSpecifier) bool { return l.Type == descriptor.LinkRSA })]
	n := int(binary.BigEndian.Uint32(rsa.Data))
	right := descriptor.IntroductionPoint{LinkSpecifiers: relayNamed(n)}
	right.Expires, right.AuthKey, right.EncKey, right.OnionKey = p.Expires, p.AuthKey, p.EncKey, p.OnionKey
	if n >= w.relays || !right.Equal(p) {
		return p, hsdir.ErrRelay
	}
	return p, nil
}

func (w *world) key() (key [32]byte) {
	w.keys++
	binary.BigEndian.PutUint32(key[:], w.keys)
	return key
}

func (w *world) relay() int { return rapid.IntRange(0, w.relays-1).Draw(w.t, "relay") }

func (w *world) honestPoint(owner string) descriptor.IntroductionPoint {
	p := descriptor.IntroductionPoint{LinkSpecifiers: relayNamed(w.relay()), AuthKey: w.key(), EncKey: w.key(), OnionKey: w.key(),
		Expires: w.now.Add(40 * time.Hour)}
	w.genuine[backend.IDOf(&p)] = owner
	return p
}

// hostilePoint is anything that M may certify.
func (w *world) hostilePoint() descriptor.IntroductionPoint {
	p := w.honestPoint("M")
	var others []descriptor.IntroductionPoint
	for _, i := range w.instances[:len(w.instances)-1] {
		others = append(others, pointsOf(i)...)
	}
	victim := rapid.SampledFrom(others).Draw(w.t, "victim")
	switch rapid.IntRange(0, 8).Draw(w.t, "trick") {
	case 0: // none
		return p
	case 1: // the whole point
		return victim
	case 2: // its key at another relay
		p.AuthKey = victim.AuthKey
	case 3: // what clients encrypt to
		p.EncKey = victim.EncKey
	case 4: // its encryption key as an authentication key
		p.AuthKey = victim.EncKey
	case 5: // a point of M's own at its relay
		p.LinkSpecifiers = victim.LinkSpecifiers
	case 6: // the same, named otherwise
		p.LinkSpecifiers = slices.Clone(victim.LinkSpecifiers)
		p.LinkSpecifiers[2] = relayNamed(w.relay())[2]
	case 7: // a relay that is none
		p.LinkSpecifiers = relayNamed(w.relays + 7)
	case 8: // more than there is room for
		p.LinkSpecifiers = append(slices.Clone(p.LinkSpecifiers), descriptor.LinkSpecifier{Type: 77, Data: make([]byte, 255)})
		return p
	}
	delete(w.genuine, backend.IDOf(&p))
	if rapid.IntRange(0, 8).Draw(w.t, "reaches M") > 0 && p.AuthKey != victim.AuthKey && p.AuthKey != victim.EncKey {
		w.genuine[backend.IDOf(&p)] = "M"
	}
	return p
}

// hostile has M publish whatever it likes.
func (w *world) hostile() {
	m := w.instances[len(w.instances)-1]
	d := &descriptor.Descriptor{}
	for range rapid.IntRange(0, descriptor.MaxIntroductionPoints).Draw(w.t, "points") {
		if len(m.Descriptor.IntroductionPoints) > 0 && rapid.Bool().Draw(w.t, "again") {
			d.IntroductionPoints = append(d.IntroductionPoints, rapid.SampledFrom(m.Descriptor.IntroductionPoints).Draw(w.t, "which"))
			continue
		}
		d.IntroductionPoints = append(d.IntroductionPoints, w.hostilePoint())
	}
	d.SingleOnion = rapid.Bool().Draw(w.t, "single")
	d.FlowControl = rapid.SampledFrom([]*descriptor.FlowControl{nil, {Versions: "1-2", SendmeInc: 31}, {Versions: "2"}, {Versions: "0-63"}}).Draw(w.t, "flow")
	m.Descriptor = d
	m.adopt(w.now)
	for _, i := range w.instances {
		i.Renewed, i.Seen = w.now, w.now // the others live, too
	}
}

// round does what the watcher and the plan do with the instances.
func (w *world) round() {
	for _, i := range w.instances {
		for _, p := range i.Offer.Points {
			for _, key := range [][32]byte{p.AuthKey, p.EncKey} {
				w.claims.Note(key, w.offering(key))
			}
		}
	}
	v := View{Now: w.now, Vouch: w.vouch, SendmeInc: 31, Config: Config{Strategy: w.strategy, Room: selection.Room{Points: 20, PerInstance: 3}}}
	for _, i := range w.instances {
		for n := range i.Offer.Points {
			i.Offer.Points[n].Rivals = w.claims.Rivals(i.Backend.Address, &i.Offer.Points[n])
		}
		v.Config.Instances = append(v.Config.Instances, i.Instance)
		v.Instances.Backends = append(v.Instances.Backends, i.Backend)
	}
	p := gather(v)
	slot := selection.Slot{Replica: 1, Asked: true}
	for _, c := range w.chosen {
		slot.Holds = append(slot.Holds, c.Point.AuthKey)
	}
	request := selection.Request{Now: w.now, Candidates: p.candidates, Slots: []selection.Slot{slot}, Room: v.Config.Room}
	binary.BigEndian.PutUint64(request.Seed[:], w.random.Uint64())
	w.chosen = selection.Assign(w.strategy, request).Points[0]
	w.contents = contents(w.chosen, v, p.flow)
}

// offering lists the instances that offer key.
func (w *world) offering(key [32]byte) (list []descriptor.Address) {
	for _, i := range w.instances {
		if slices.ContainsFunc(i.Offer.Points, func(p backend.Point) bool { return p.AuthKey == key || p.EncKey == key }) {
			list = append(list, i.Backend.Address)
		}
	}
	return list
}

func pointsOf(i *member) (list []descriptor.IntroductionPoint) {
	for _, p := range i.Offer.Points {
		list = append(list, p.IntroductionPoint)
	}
	return list
}

// restart gives an honest instance new points. It gets those that are on relays
// where no other honest one has any, whatever M has on offer there beyond its own
// share, and nobody else loses one.
func (w *world) restart(before map[string][]backend.ID) {
	i := w.instances[rapid.IntRange(0, len(w.instances)-2).Draw(w.t, "which")]
	wanted, byM := make(map[descriptor.Fingerprint]bool), make(map[descriptor.Fingerprint]bool)
	for _, other := range w.instances {
		for _, p := range other.Offer.Points {
			if other.Name == "M" {
				byM[p.Relay()] = true
			} else if other != i {
				wanted[p.Relay()] = true
			}
		}
	}
	i.Descriptor = &descriptor.Descriptor{}
	i.Descriptor.FlowControl = &descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}
	free := make(map[descriptor.Fingerprint]bool)
	for range rapid.IntRange(1, 4).Draw(w.t, "new points") {
		p := w.honestPoint(i.Name)
		i.Descriptor.IntroductionPoints = append(i.Descriptor.IntroductionPoints, p)
		if !wanted[p.Relay()] {
			free[p.Relay()] = true
		}
	}
	least := 0
	for relay := range free {
		if !byM[relay] {
			least++
		}
	}
	least += max(0, len(free)-least-3) // M's quota is three at the most
	w.now = w.now.Add(time.Minute)
	i.adopt(w.now)
	w.round()
	after := w.published()
	// With eight instances at most, each may have two points of twenty.
	if got := len(after[i.Name]); got < min(least, 2) {
		w.t.Fatalf("%s has %d points published after a restart, want at least %d", i.Name, got, least)
	}
	for _, other := range w.instances[:len(w.instances)-1] {
		if other != i && len(before[i.Name]) > 0 && lost(before[other.Name], after[other.Name]) {
			w.t.Fatalf("%s lost a point to the restart of %s", other.Name, i.Name)
		}
	}
}

// lost reports whether an instance has fewer of its published points left than its share.
// With eight instances at most, that is two of twenty; while M had none, the others
// may have had one more, and give it up again.
func lost(was, is []backend.ID) bool {
	left := 0
	for _, id := range was {
		if slices.Contains(is, id) {
			left++
		}
	}
	return left < min(len(was), 2)
}

// published returns the points of each instance that are published.
func (w *world) published() map[string][]backend.ID {
	out := make(map[string][]backend.ID)
	for _, c := range w.chosen {
		out[c.Instance] = append(out[c.Instance], backend.IDOf(c.Point))
	}
	for name := range out {
		slices.SortFunc(out[name], func(a, b backend.ID) int { return slices.Compare(a.Auth[:], b.Auth[:]) })
	}
	return out
}

// visits returns where the first try of tor's clients ends, by instance: they
// pick any point, and go to the first of the descriptor that has the picked
// one's RSA identity.
func (w *world) visits() map[string]float64 {
	share, first := make(map[string]float64), make(map[descriptor.Fingerprint]string)
	for n := range w.contents.IntroductionPoints {
		p := &w.contents.IntroductionPoints[n]
		if _, taken := first[p.Relay()]; !taken {
			first[p.Relay()] = w.genuine[backend.IDOf(p)]
		}
		share[first[p.Relay()]] += 1 / float64(len(w.contents.IntroductionPoints))
	}
	return share
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: testNow, claims: backend.Claims{}, genuine: make(map[backend.ID]string)}
	w.relays = rapid.SampledFrom([]int{20, 200, 5000}).Draw(t, "relays")
	w.random = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	w.strategy, _ = selection.Lookup(rapid.SampledFrom(selection.Names()).Draw(t, "strategy"))
	others := rapid.IntRange(1, 7).Draw(t, "others")
	for n := range others + 1 {
		name := string(rune('A' + n))
		if n == others {
			name = "M"
		}
		address := descriptor.Address{byte(n)}
		i := &member{Instance{Name: name, Address: address, Weight: 1},
			&backend.Backend{Address: address, Finding: backend.Found, Renewed: testNow, Seen: testNow, Descriptor: &descriptor.Descriptor{}}}
		i.Descriptor.FlowControl = &descriptor.FlowControl{Versions: "1-2", SendmeInc: 31}
		for range rapid.IntRange(1, 4).Draw(t, "honest points") {
			i.Descriptor.IntroductionPoints = append(i.Descriptor.IntroductionPoints, w.honestPoint(name))
		}
		i.adopt(testNow)
		w.instances = append(w.instances, i)
	}
	w.round()
	return w
}

// TestHostileInstance: no descriptor that instance M can publish takes a point of
// another instance out of the public one, nor more of the others' expected share
// than M's own share allows; nor does it switch congestion control, nor make the
// descriptor larger, nor have it published all the time. What M gives up, others
// may have.
func TestHostileInstance(t *testing.T) {
	checkMany(t, func(t *rapid.T) {
		w := newWorld(t)
		before, flow := w.published(), w.contents.FlowControl
		others := len(w.instances) - 1
		for range rapid.IntRange(1, 4).Draw(t, "descriptors") {
			w.now = w.now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "minutes")) * time.Minute)
			w.hostile()
			w.round()
			w.checkOthers(before)
			before = w.published()
			if rapid.Bool().Draw(t, "an honest one restarts") {
				w.restart(before)
				before = w.published()
			}
			if others >= 2 && !backend.SameFlow(w.contents.FlowControl, flow) {
				t.Fatalf("flow control became %v", w.contents.FlowControl)
			}
		}
	})
}

// checkOthers holds what is published against what was before M did anything.
func (w *world) checkOthers(before map[string][]backend.ID) {
	t, after, visits := w.t, w.published(), w.visits()
	total := 3.0 // M's quota, at the most
	for _, i := range w.instances[:len(w.instances)-1] {
		total += float64(len(after[i.Name]))
	}
	for _, i := range w.instances[:len(w.instances)-1] {
		was, is := before[i.Name], after[i.Name]
		if lost(was, is) {
			t.Fatalf("%s: the published points %v became %v", i.Name, was, is)
		}
		if least := float64(len(is)) / total; visits[i.Name] < least-1e-9 {
			t.Fatalf("%s gets %.3f of the clients, want at least %.3f: %v", i.Name, visits[i.Name], least, visits)
		}
	}
	if told := selection.Shares(w.chosen); len(before["M"]) > 0 && told["M"] < visits["M"]-1e-9 {
		t.Fatalf("status says that M gets %.3f, and it gets %.3f", told["M"], visits["M"])
	}
	seen := make(map[any]bool)
	for n := range w.contents.IntroductionPoints {
		p := &w.contents.IntroductionPoints[n]
		for _, name := range []any{p.Relay(), p.AuthKey, p.EncKey} {
			if seen[name] {
				t.Fatalf("%v is there twice", name)
			}
			seen[name] = true
		}
		if len(p.LinkSpecifiers) > 4 || math.IsNaN(visits["M"]) {
			t.Fatalf("%d link specifiers", len(p.LinkSpecifiers))
		}
	}
}

var testNow = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
