package hsdir

import (
	"bytes"
	"strings"
	"testing"

	"onionbalancer/descriptor"
)

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
