package offline

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"onionbalancer/descriptor"
)

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
	good := sign(t, m.request(noon, current, 2), noon, m.key)
	raw, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for i := range raw {
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
	if list, err := Install([]string{m.dir}, []*Bundle{good}, noon); err != nil || list[0].New != 2 {
		t.Errorf("the good one: %+v, %v", list, err)
	}
	if _, err := (&Request{}).Sign([]*descriptor.IdentityKey{m.key}, noon); err == nil {
		t.Error("signed nothing")
	}
}
