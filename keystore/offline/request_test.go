package offline

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

// TestWarnings: warnings before signing, and none if all is well.
func TestWarnings(t *testing.T) {
	w := newManager(t, "front").prepare(current, 60)
	lab := NewSchedule(8*time.Minute, 4*time.Minute)
	for what, test := range map[string]struct {
		edit func(r *Request)
		now  time.Time
		want []string
	}{
		"as it should be":     {now: noon.Add(time.Hour)},
		"a clock a bit off":   {now: noon.Add(-9 * time.Minute)},
		"some days later":     {now: noon.Add(6 * 24 * time.Hour), want: []string{"5 of its 60 periods are over"}},
		"a clock far behind":  {now: noon.Add(-time.Hour), want: []string{"yet to come by the clock of this machine"}},
		"a clock years back":  {now: time.Unix(1e9, 0), want: []string{"yet to come", "nothing can be published before"}},
		"an old request":      {now: noon.Add(10 * 24 * time.Hour), want: []string{"10 days ago", "9 of its 60"}},
		"a very old request":  {now: noon.Add(100 * 24 * time.Hour), want: []string{"100 days ago", "all of its periods are over"}},
		"its last hours":      {edit: func(r *Request) { r.shorten(1) }, now: noon.Add(30 * time.Hour), want: []string{"its last period ended at 2026-11-21 12:00 UTC"}},
		"far ahead":           {edit: func(r *Request) { r.First += 3000; r.Services[0].CertifiedThrough = r.First - 1 }, now: noon, want: []string{"it reaches 3060 days ahead"}},
		"180 days":            {edit: func(r *Request) { r.lengthen(180) }, now: noon},
		"181 days":            {edit: func(r *Request) { r.lengthen(181) }, now: noon, want: []string{"it covers 181 days"}},
		"another network":     {edit: func(r *Request) { r.Schedule, r.First = lab, lab.At(noon).Number }, now: noon, want: []string{"not for the public Tor network"}},
		"a seamless renewal":  {edit: func(r *Request) { r.Services[0].CertifiedThrough = current - 1 }, now: noon},
		"an overlap":          {edit: func(r *Request) { r.Services[0].CertifiedThrough = current + 9 }, now: noon},
		"a gap":               {edit: func(r *Request) { r.Services[0].CertifiedThrough = current - 2 }, now: noon, want: []string{"a gap: the manager has certificates until 2026-11-19 12:00 UTC"}},
		"a beginning to come": {edit: func(r *Request) { r.First += 2 }, now: noon, want: []string{"nothing can be published before"}},
		"the next period":     {edit: func(r *Request) { r.First++ }, now: noon.Add(12 * time.Hour)},
	} {
		r := request(t, noon, current, w)
		if test.edit != nil {
			test.edit(r)
		}
		got := r.Warnings(test.now)
		if len(got) != len(test.want) {
			t.Errorf("%s: %q", what, got)
			continue
		}
		for i, words := range test.want {
			if !strings.Contains(got[i], words) {
				t.Errorf("%s: %q does not say %q", what, got[i], words)
			}
		}
	}
}

// lengthen gives r so many periods.
func (r *Request) lengthen(periods int) {
	keys := r.Services[0].Keys
	for len(keys) < periods {
		keys = append(keys, keys[0])
	}
	r.Services[0].Keys = keys
}

// shorten leaves r so many periods.
func (r *Request) shorten(periods int) { r.Services[0].Keys = r.Services[0].Keys[:periods] }

// TestDescribe: spans, where there are gaps and certificates for other keys.
func TestDescribe(t *testing.T) {
	m := newManager(t, "front")
	m.prepare(current, 10)
	d, err := Describe(m.dir)
	if err != nil || d.Address != m.key.Address() || len(d.Keys) != 1 || d.Keys[0].Periods() != 10 || d.Certified == nil || len(d.Certified) != 0 || d.Horizon != 0 {
		t.Errorf("prepared: %+v, %v", d, err)
	}
	m.ceremony(noon, current, 2)
	m.ceremony(noon.Add(time.Hour), current+4, 3)
	d, err = Describe(m.dir)
	want := []Span{Public.Span(current, current+1), Public.Span(current+4, current+6)}
	if err != nil || len(d.Certified) != 2 || d.Certified[0] != want[0] || d.Certified[1] != want[1] || d.Horizon != 3 || !d.Ceremony.Equal(noon.Add(time.Hour)) {
		t.Errorf("certified: %+v, %v", d, err)
	}
	b, err := ParseBundle(readGolden(t, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	if spans := b.Spans(identity(t, "mail").Address()); len(spans) != 1 || spans[0] != Public.Span(current, current+2) {
		t.Errorf("spans %+v", spans)
	}
	if _, err := Describe(t.TempDir()); err == nil {
		t.Error("described nothing")
	}
}

// TestCertifiedForever: a request that claims certificates until the end of time
// has no gap to be told about, and is none of a balancer's.
func TestCertifiedForever(t *testing.T) {
	r := request(t, noon, current, newManager(t, "front").prepare(current, 2))
	r.Services[0].CertifiedThrough = math.MaxUint64
	raw, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseRequest(raw)
	wantError(t, "certified forever", err, "the certificates that it has: period 18446744073709551615")
}

// TestRequestParts: small enough for QR codes, and whole again in any order,
// with the fingerprint that the manager showed.
func TestRequestParts(t *testing.T) {
	first := uint64(endOfTime/1440 - 200)
	front, mail := newManager(t, "front"), newManager(t, "mail")
	whole := request(t, noon, first, mail.prepare(first, 95), front.prepare(first, 95))
	raw, err := whole.Split()
	if err != nil || len(raw) != 6 {
		t.Fatalf("%d parts, %v", len(raw), err)
	}
	var parts []*Request
	for _, r := range raw {
		if len(r) >= MaxPart {
			t.Errorf("a part of %d bytes", len(r))
		}
		part, err := ParseRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
	}
	want, err := whole.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		shuffled := slices.Clone(parts)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again, err := JoinRequests(append(shuffled, shuffled[:2]...)) // some are scanned twice
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again.Fingerprint(); err != nil || got != want {
			t.Errorf("fingerprint %s, want %s, %v", got, want, err)
		}
	}
	if one, err := JoinRequests([]*Request{whole}); err != nil || one != whole {
		t.Errorf("one whole request: %v", err)
	}
	for i := range parts {
		rest := slices.Delete(slices.Clone(parts), i, i+1)
		if got, err := JoinRequests(rest); err == nil {
			t.Errorf("without part %d there are %d periods of %d addresses", i, got.Periods(), len(got.Services))
		}
	}
	_, err = JoinRequests(nil)
	wantError(t, "nothing", err, "there are none")
}

// TestMixedParts: parts of two requests do not make one.
func TestMixedParts(t *testing.T) {
	m := newManager(t, "front")
	split := func(r *Request) []*Request {
		raw, err := r.Split()
		if err != nil {
			t.Fatal(err)
		}
		var parts []*Request
		for _, p := range raw {
			part, err := ParseRequest(p)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, part)
		}
		return parts
	}
	now := split(m.request(noon, current, 60))
	later := split(m.request(noon.Add(1e9), current, 60))
	_, err := JoinRequests([]*Request{now[0], later[1]})
	wantError(t, "parts of two times", err, "different requests")
	lost := newManager(t, "front")
	other := split(lost.request(noon, current, 60))
	_, err = JoinRequests([]*Request{now[0], other[0], now[1]})
	wantError(t, "parts of two managers", err, "contradict each other")
	certified := *now[1]
	certified.Services = []Wanted{{Address: m.key.Address(), CertifiedThrough: current, Keys: now[1].Services[0].Keys}}
	_, err = JoinRequests([]*Request{now[0], &certified})
	wantError(t, "parts that know of other certificates", err, "different requests")
}

// TestEveryByte: a bundle with a bit changed anywhere is refused, unless it still
// says the same.
func TestEveryByte(t *testing.T) {
	m := newManager(t, "front")
	good := sign(t, m.request(noon, current, 1), noon, m.key)
	raw, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	certificates := bytes.Index(raw, []byte(`"certificate"`))
	for i := range raw {
		if in := i - certificates; in > 300 && in < 4700 && in%17 != 0 { // they are long, and all alike
			continue
		}
		changed := bytes.Clone(raw)
		changed[i] ^= 1 << (i % 7)
		b, err := ParseBundle(changed)
		if err != nil {
			continue
		}
		if same, err := b.Encode(); err == nil && bytes.Equal(same, raw) {
			accepted++ // white space
			continue
		}
		wantRefused(t, string(changed[max(i-20, 0):min(i+20, len(raw))]), []string{m.dir}, []*Bundle{b}, noon)
	}
	if accepted > len(raw)/10 {
		t.Errorf("%d changes of %d made no difference", accepted, len(raw))
	}
	if list, err := Install([]string{m.dir}, []*Bundle{good}, noon); err != nil || list[0].New != 1 {
		t.Errorf("the good one: %+v, %v", list, err)
	}
	if _, err := (&Request{}).Sign([]*descriptor.IdentityKey{m.key}, noon); err == nil {
		t.Error("signed nothing")
	}
}

// TestSortRequests: the requests of several managers, and their parts, whenever they were made.
func TestSortRequests(t *testing.T) {
	m1, m2 := newManager(t, "front"), newManager(t, "front")
	m2.key, m2.dir = m1.key, m2.dir+"2"
	one, same, later := m1.request(noon, current, 50), m2.request(noon, current, 50), m2.request(noon.Add(time.Second), current, 50)
	parts := func(r *Request) (list []*Request) {
		raw, err := r.Split()
		if err != nil || len(raw) != 2 {
			t.Fatalf("%d parts, %v", len(raw), err)
		}
		for _, part := range raw {
			p, err := ParseRequest(part)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
		}
		return list
	}
	for what, given := range map[string][]*Request{
		"whole":                   {one, later},
		"whole, in one second":    {one, same},
		"parts":                   append(parts(later), parts(one)...),
		"parts, and a whole one":  append(parts(one), later),
		"parts, in another order": {parts(one)[1], parts(later)[1], parts(later)[0], parts(one)[0]},
	} {
		groups := SortRequests(given)
		if len(groups) != 2 {
			t.Errorf("%s: %d requests", what, len(groups))
			continue
		}
		for _, group := range groups {
			whole, err := JoinRequests(group)
			if err != nil || whole.Periods() != 50 {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	for _, group := range SortRequests(append(parts(one), parts(same)...)) {
		_, err := JoinRequests(group)
		wantError(t, "parts of two, in one second", err, "contradict")
	}
	asked := map[string]string{}
	if other := one.Shares(asked, "one"); other != "" {
		t.Errorf("shared with %q", other)
	}
	if other := same.Shares(asked, "same"); other != "" {
		t.Errorf("shared with %q", other)
	}
	if other := later.Shares(asked, "later"); other != "same" {
		t.Errorf("shared with %q", other)
	}
}
