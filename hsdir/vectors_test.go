package hsdir

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

func TestTimePeriodVectors(t *testing.T) {
	var v struct {
		Periods []struct {
			Time     int64  `json:"unix_time"`
			Minutes  int    `json:"period_length_minutes"`
			Interval int    `json:"voting_interval_seconds"`
			Number   uint64 `json:"time_period_number"`
			Start    int64  `json:"period_start_unix"`
			Next     int64  `json:"next_period_start_unix"`
		} `json:"time_periods"`
	}
	readVectors(t, "timeperiod.json", &v)
	if len(v.Periods) == 0 {
		t.Fatal("no vectors")
	}
	for _, p := range v.Periods {
		// The testing networks among them have periods of 24 intervals.
		net := randomNetwork(1, 1, time.Unix(p.Time, 0).UTC())
		net.FreshUntil = net.ValidAfter.Add(time.Duration(p.Interval) * time.Second)
		net.ValidUntil = net.FreshUntil.Add(time.Hour)
		onTestNetwork := p.Interval != 3600
		if !onTestNetwork {
			net.Params = []string{fmt.Sprintf("hsdir_interval=%d", p.Minutes)}
		}
		c := net.parse(t, onTestNetwork)
		period := c.CurrentPeriod()
		if period.Number != p.Number || period.Minutes() != uint64(p.Minutes) {
			t.Errorf("at %d: period %v, want %d of %d minutes", p.Time, period, p.Number, p.Minutes)
		}
		if got := period.Start(c.RotationOffset()).Unix(); got != p.Start {
			t.Errorf("at %d: period begins %d, want %d", p.Time, got, p.Start)
		}
		if got := c.NextPeriod().Unix(); got != p.Next {
			t.Errorf("at %d: next period begins %d, want %d", p.Time, got, p.Next)
		}
	}
}

type segmentSide struct {
	Number uint64 `json:"time_period_number"`
	SRV    string `json:"shared_random"`
}

func TestSegmentVectors(t *testing.T) {
	var v struct {
		Segments []struct {
			ValidAfter  string      `json:"valid_after"`
			FreshUntil  string      `json:"fresh_until"`
			Minutes     uint64      `json:"period_length_minutes"`
			RunStart    int64       `json:"srv_run_start_unix"`
			Current     uint64      `json:"current_time_period"`
			Between     bool        `json:"between_time_period_and_srv"`
			Client      segmentSide `json:"client_fetch"`
			First       segmentSide `json:"service_first_descriptor"`
			Second      segmentSide `json:"service_second_descriptor"`
			EpochFirst  int64       `json:"revision_counter_epoch_first"`
			EpochSecond int64       `json:"revision_counter_epoch_second"`
			Rotation    int64       `json:"next_rotation_unix"`
		}
	}
	readVectors(t, "timeperiod.json", &v)
	if len(v.Segments) == 0 {
		t.Fatal("no vectors")
	}
	for _, s := range v.Segments {
		net := randomNetwork(3, 2, parseTestTime(t, s.ValidAfter))
		net.FreshUntil = parseTestTime(t, s.FreshUntil)
		net.ValidUntil = net.FreshUntil.Add(time.Hour)
		c := net.parse(t, net.FreshUntil.Sub(net.ValidAfter) < time.Hour)
		values := map[string][32]byte{"current": *net.Current, "previous": *net.Previous}
		check := func(name string, r *Ring, want segmentSide, epoch int64) {
			if r.Period.Number != want.Number || r.Period.Minutes() != s.Minutes {
				t.Errorf("%s: %s period %v, want %d of %d minutes", s.ValidAfter, name, r.Period, want.Number, s.Minutes)
			}
			if r.SharedRandom != values[want.SRV] || r.Disaster {
				t.Errorf("%s: %s descriptor does not use the %s shared random value", s.ValidAfter, name, want.SRV)
			}
			if epoch != 0 && r.RunStart.Unix() != epoch {
				t.Errorf("%s: %s counts from %d, want %d", s.ValidAfter, name, r.RunStart.Unix(), epoch)
			}
		}
		check("first", mustRing(t, c, FirstRole), s.First, s.EpochFirst)
		check("second", mustRing(t, c, SecondRole), s.Second, s.EpochSecond)
		check("client's", c.Current(), s.Client, 0)
		if c.schedule.between != s.Between || c.CurrentPeriod().Number != s.Current || c.schedule.runStart.Unix() != s.RunStart {
			t.Errorf("%s: between %v period %d run start %d, want %v %d %d", s.ValidAfter, c.schedule.between,
				c.CurrentPeriod().Number, c.schedule.runStart.Unix(), s.Between, s.Current, s.RunStart)
		}
		if got := c.NextSharedRandom().Unix(); got != s.Rotation {
			t.Errorf("%s: next rotation %d, want %d", s.ValidAfter, got, s.Rotation)
		}
	}
}

func parseTestTime(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := parseTime([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func mustRing(t testing.TB, c *Consensus, role Role) *Ring {
	t.Helper()
	r, err := c.Ring(role)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIndexVectors(t *testing.T) {
	var v struct {
		Indexes []struct {
			Kind    string   `json:"kind"`
			Blinded hexBytes `json:"blinded_public_key"`
			Ed25519 hexBytes `json:"ed25519_identity"`
			SRV     hexBytes `json:"shared_random_value"`
			Replica int      `json:"replica"`
			Number  uint64   `json:"time_period_number"`
			Minutes int      `json:"time_period_length_minutes"`
			Index   hexBytes `json:"index"`
		}
		Disaster []struct {
			Number  uint64   `json:"time_period_number"`
			Minutes int      `json:"time_period_length_minutes"`
			SRV     hexBytes `json:"shared_random_value"`
		} `json:"disaster_shared_random"`
	}
	readVectors(t, "hashring.json", &v)
	if len(v.Indexes) == 0 || len(v.Disaster) == 0 {
		t.Fatal("no vectors")
	}
	for i, x := range v.Indexes {
		p := descriptor.Period{Number: x.Number, Length: time.Duration(x.Minutes) * time.Minute}
		var got [32]byte
		if x.Kind == "hs_index" {
			got = hsIndex(x.Blinded.key(), x.Replica, p)
		} else {
			got = hsdirIndex(x.Ed25519.key(), x.SRV.key(), p)
		}
		if !bytes.Equal(got[:], x.Index) {
			t.Errorf("index %d, %s: %x, want %x", i, x.Kind, got, x.Index)
		}
	}
	for _, x := range v.Disaster {
		p := descriptor.Period{Number: x.Number, Length: time.Duration(x.Minutes) * time.Minute}
		if got := disasterValue(p); !bytes.Equal(got[:], x.SRV) {
			t.Errorf("disaster value of %v: %x, want %x", p, got, x.SRV)
		}
	}
}

// flat puts the HSDirs of all replicas in one list, in order.
func flat(replicas [][]ResponsibleHSDir) []ResponsibleHSDir { return slices.Concat(replicas...) }

type vectorHSDir struct {
	Fingerprint hexBytes `json:"fingerprint"`
	Ed25519     hexBytes `json:"ed25519_identity"`
	Index       hexBytes `json:"hsdir_index"`
	Replica     int      `json:"replica"`
}

type vectorRing struct {
	Name        string          `json:"name"`
	Relays      json.RawMessage `json:"relays"`
	Blinded     hexBytes        `json:"blinded_public_key"`
	Descriptor  string          `json:"descriptor"`
	ValidAfter  int64           `json:"valid_after_unix"`
	Number      uint64          `json:"time_period_number"`
	Minutes     int             `json:"time_period_length_minutes"`
	SRV         hexBytes        `json:"shared_random_value"`
	Current     hexBytes        `json:"current_shared_random"`
	Previous    hexBytes        `json:"previous_shared_random"`
	Replicas    int             `json:"n_replicas"`
	Spread      int             `json:"spread_store"`
	Responsible []vectorHSDir   `json:"responsible"`
	Only        []hexBytes      `json:"responsible_fingerprints"`
}

// network returns a network in which v's relays are HSDirs, and which of its
// rings is v's.
func (v *vectorRing) network(t *testing.T) (*testNetwork, Role) {
	t.Helper()
	var relays []vectorHSDir
	if json.Unmarshal(v.Relays, &relays) != nil {
		for i := 1; i <= 255; i++ { // "255 relays", byte i repeated
			b := bytes.Repeat([]byte{byte(i)}, 32)
			relays = append(relays, vectorHSDir{Fingerprint: b[:20], Ed25519: b})
		}
	}
	// An hour after the period began, the second ring is of that period; at
	// the moments that the vectors name themselves, they say which.
	p := descriptor.Period{Number: v.Number, Length: time.Duration(v.Minutes) * time.Minute}
	at, role := p.Start(descriptor.DefaultRotationOffset).Add(time.Hour), SecondRole
	if v.ValidAfter != 0 {
		at = time.Unix(v.ValidAfter, 0).UTC()
		if v.Descriptor == "first" {
			role = FirstRole
		}
	} else {
		v.Current, v.Previous = v.SRV, make([]byte, 32)
	}
	current, previous := v.Current.key(), v.Previous.key()
	net := &testNetwork{
		ValidAfter: at, FreshUntil: at.Add(time.Hour), ValidUntil: at.Add(3 * time.Hour),
		Params:  []string{fmt.Sprintf("hsdir_n_replicas=%d", v.Replicas), fmt.Sprintf("hsdir_spread_store=%d", v.Spread)},
		Current: &current, Previous: &previous,
	}
	for i, r := range relays {
		net.Relays = append(net.Relays, testRelay{
			Nickname: fmt.Sprintf("r%d", i), Fingerprint: [20]byte(r.Fingerprint), Ed25519: r.Ed25519.key(),
			Flags: hsdirFlags, Protocols: fullProtocols,
		})
	}
	return net, role
}

func TestRingVectors(t *testing.T) {
	var v struct{ Rings []vectorRing }
	readVectors(t, "hashring.json", &v)
	if len(v.Rings) == 0 {
		t.Fatal("no vectors")
	}
	for _, ring := range v.Rings {
		t.Run(ring.Name, func(t *testing.T) {
			net, role := ring.network(t)
			r := mustRing(t, net.parse(t, false), role)
			if r.Period.Number != ring.Number || !bytes.Equal(r.SharedRandom[:], ring.SRV) {
				t.Fatalf("ring of period %v, shared random %x", r.Period, r.SharedRandom)
			}
			got := r.Store(ring.Blinded.key())
			if len(got) != ring.Replicas {
				t.Fatalf("%d replicas, want %d", len(got), ring.Replicas)
			}
			if ring.Responsible != nil {
				checkHSDirs(t, flat(got), ring.Responsible)
				return
			}
			if len(flat(got)) != len(ring.Only) {
				t.Fatalf("%d HSDirs, want %d", len(flat(got)), len(ring.Only))
			}
			// The fingerprints alone, and in another order than ours.
			for _, h := range flat(got) {
				found := false
				for _, want := range ring.Only {
					found = found || bytes.Equal(want, h.Fingerprint[:])
				}
				if !found {
					t.Errorf("%x is not responsible", h.Fingerprint)
				}
			}
		})
	}
}

func checkHSDirs(t *testing.T, got []ResponsibleHSDir, want []vectorHSDir) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d HSDirs, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if !bytes.Equal(g.Fingerprint[:], w.Fingerprint) || !bytes.Equal(g.Index[:], w.Index) || g.Replica != w.Replica {
			t.Errorf("HSDir %d: %x index %x replica %d, want %x %x %d",
				i, g.Fingerprint, g.Index, g.Replica, w.Fingerprint, w.Index, w.Replica)
		}
	}
}

type liveSRV struct {
	Reveals int    `json:"num_reveals"`
	Value   string `json:"value"`
}

type liveConsensus struct {
	ValidAfter string   `json:"valid_after"`
	FreshUntil string   `json:"fresh_until"`
	ValidUntil string   `json:"valid_until"`
	Params     []string `json:"params"`
	Current    *liveSRV `json:"shared_rand_current"`
	Previous   *liveSRV `json:"shared_rand_previous"`
	Period     uint64   `json:"current_time_period"`
	Between    bool     `json:"between_time_period_and_srv"`
	Relays     []struct {
		Nickname    string   `json:"nickname"`
		Fingerprint hexBytes `json:"fingerprint"`
		Ed25519     hexBytes `json:"ed25519_identity"`
		Flags       []string `json:"flags"`
		Protocols   []string `json:"protocols"`
	}
}

type liveVectors struct {
	Services map[string]struct {
		Address descriptor.Address `json:"onion_address"`
	}
	Consensuses map[string]liveConsensus
	Uploads     []struct {
		Network    string        `json:"network"`
		Service    string        `json:"service"`
		Consensus  string        `json:"consensus"`
		Descriptor string        `json:"descriptor"`
		Number     uint64        `json:"time_period_number"`
		Kind       string        `json:"shared_random_kind"`
		SRV        hexBytes      `json:"shared_random_value"`
		Blinded    hexBytes      `json:"blinded_public_key"`
		UploadedTo []vectorHSDir `json:"uploaded_to"`
	}
	Fetches []struct {
		Network   string     `json:"network"`
		Service   string     `json:"service"`
		Consensus string     `json:"consensus"`
		Number    uint64     `json:"time_period_number"`
		SRV       hexBytes   `json:"shared_random_value"`
		Blinded   hexBytes   `json:"blinded_public_key"`
		Allowed   []hexBytes `json:"allowed"`
		From      hexBytes   `json:"requested_from"`
		Index     hexBytes   `json:"hsdir_index"`
	}
}

func (l *liveConsensus) parse(t *testing.T, p *Parser) *Consensus {
	t.Helper()
	srv := func(v *liveSRV) *[32]byte {
		if v == nil {
			return nil
		}
		var raw hexBytes
		if err := raw.UnmarshalText([]byte(v.Value)); err != nil {
			t.Fatal(err)
		}
		key := raw.key()
		return &key
	}
	net := testNetwork{
		ValidAfter: parseTestTime(t, l.ValidAfter), FreshUntil: parseTestTime(t, l.FreshUntil), ValidUntil: parseTestTime(t, l.ValidUntil),
		Params: l.Params, Current: srv(l.Current), Previous: srv(l.Previous),
	}
	for _, r := range l.Relays {
		net.Relays = append(net.Relays, testRelay{
			Nickname: r.Nickname, Fingerprint: [20]byte(r.Fingerprint), Ed25519: r.Ed25519.key(),
			Flags: r.Flags, Protocols: strings.Join(r.Protocols, " "),
		})
	}
	consensus, microdescs := net.documents()
	c, err := p.Parse(consensus, microdescs, true)
	if err != nil {
		t.Fatal(err)
	}
	if c.CurrentPeriod().Number != l.Period || c.schedule.between != l.Between {
		t.Errorf("%s: period %v, between %v", l.ValidAfter, c.CurrentPeriod(), c.schedule.between)
	}
	return c
}

// TestLiveVectors compares with what real services uploaded where, and with
// what real clients asked whom. One parser sees all consensuses in turn, so
// that what it remembers of one must not harm the next.
func TestLiveVectors(t *testing.T) {
	var v liveVectors
	readVectors(t, "hashring_live.json", &v)
	if len(v.Uploads) == 0 || len(v.Fetches) == 0 {
		t.Fatal("no vectors")
	}
	parsers := map[string]*Parser{"a": new(Parser), "b": new(Parser)}
	parsed := map[string]*Consensus{}
	get := func(t *testing.T, network, key string) *Consensus {
		l, ok := v.Consensuses[key]
		if !ok {
			t.Fatalf("no consensus %q", key)
		}
		if parsed[key] == nil {
			parsed[key] = l.parse(t, parsers[network])
		}
		return parsed[key]
	}
	blind := func(t *testing.T, network, service string, r *Ring, want hexBytes) descriptor.BlindedPublicKey {
		b, err := v.Services[network+"/"+service].Address.Blind(r.Period)
		if err != nil || !bytes.Equal(b[:], want) {
			t.Fatalf("%s: blinded key %x, %v, want %x", service, b, err, want)
		}
		return b
	}
	t.Run("uploads", func(t *testing.T) {
		for _, u := range v.Uploads {
			role := FirstRole
			if u.Descriptor == "second" {
				role = SecondRole
			}
			r := mustRing(t, get(t, u.Network, u.Consensus), role)
			if r.Period.Number != u.Number || !bytes.Equal(r.SharedRandom[:], u.SRV) || r.Disaster != strings.HasPrefix(u.Kind, "disaster") {
				t.Fatalf("%s %s: ring of %v, %x, disaster %v", u.Consensus, role, r.Period, r.SharedRandom, r.Disaster)
			}
			checkHSDirs(t, flat(r.Store(blind(t, u.Network, u.Service, r, u.Blinded))), u.UploadedTo)
		}
	})
	t.Run("fetches", func(t *testing.T) {
		for _, f := range v.Fetches {
			r := get(t, f.Network, f.Consensus).Current()
			if r.Period.Number != f.Number || !bytes.Equal(r.SharedRandom[:], f.SRV) {
				t.Fatalf("%s: ring of %v, %x", f.Consensus, r.Period, r.SharedRandom)
			}
			got := map[[20]byte][32]byte{}
			for _, h := range flat(r.Fetch(blind(t, f.Network, f.Service, r, f.Blinded))) {
				got[h.Fingerprint] = h.Index
			}
			if len(got) != len(f.Allowed) {
				t.Fatalf("%s: %d HSDirs to ask, want %d", f.Consensus, len(got), len(f.Allowed))
			}
			for _, a := range f.Allowed {
				if _, ok := got[[20]byte(a)]; !ok {
					t.Errorf("%s: %x may not be asked", f.Consensus, a)
				}
			}
			if index := got[[20]byte(f.From)]; !bytes.Equal(index[:], f.Index) {
				t.Errorf("%s: index %x, want %x", f.Consensus, index, f.Index)
			}
		}
	})
}
