package tor

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/tor/control"
)

// fakeGeoIP answers questions about countries.
type fakeGeoIP struct {
	mu      sync.Mutex
	file    map[string]string // by address; nil: there is none
	hangs   bool
	asked   []string
	changes int
}

func (f *fakeGeoIP) getInfo(ctx context.Context, key string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what, found := strings.CutPrefix(key, "ip-to-country/")
	switch {
	case !found:
		return nil, errors.New("what?")
	case f.hangs:
		f.mu.Unlock()
		defer f.mu.Lock()
		<-ctx.Done()
		return nil, ctx.Err()
	case what == "ipv4-available":
		return []byte(map[bool]string{true: "0", false: "1"}[f.file == nil]), nil
	}
	f.asked = append(f.asked, what)
	if f.file == nil {
		return nil, &control.ReplyError{}
	}
	return []byte(f.file[what]), nil
}

func (f *fakeGeoIP) count() (asked, changes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked), f.changes
}

// countries returns Countries that ask f once they run.
func (f *fakeGeoIP) countries() *Countries {
	return NewCountries(f.getInfo, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changes++
	})
}

// runCountries runs Countries that ask f until the test ends.
func runCountries(t *testing.T, f *fakeGeoIP) *Countries {
	c := f.countries()
	runUntilEnd(t, c)
	return c
}

func runUntilEnd(t *testing.T, c *Countries) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go c.Run(ctx)
}

func TestCountries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeGeoIP{file: map[string]string{"192.0.2.1": "DE", "192.0.2.2": "??"}}
		c := f.countries()
		first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		for _, a := range []netip.Addr{first, second, first} {
			if code, open := c.Of(a); code != "" || !open {
				t.Errorf("%s is known at once: %q, %t", a, code, open)
			}
		}
		runUntilEnd(t, c)
		synctest.Wait()
		for range 3 {
			if code, open := c.Of(first); code != "de" || open {
				t.Errorf("%q, %t", code, open)
			}
			if code, open := c.Of(second); code != "??" || open {
				t.Errorf("%q, %t", code, open)
			}
		}
		if asked, changes := f.count(); asked != 2 || changes != 1 || c.Trouble() != nil {
			t.Errorf("asked %d times, %d changes, %v", asked, changes, c.Trouble())
		}
		f.mu.Lock()
		f.file["192.0.2.1"] = "fr"
		f.mu.Unlock()
		time.Sleep(countryKept + time.Second)
		if code, open := c.Of(first); code != "de" || open {
			t.Errorf("while it is asked again it is %q, %t", code, open)
		}
		synctest.Wait()
		if code, _ := c.Of(first); code != "fr" {
			t.Errorf("a day later it is still %q", code)
		}
		if _, changes := f.count(); changes != 2 {
			t.Errorf("%d changes, want another one", changes)
		}
		time.Sleep(countryKept + time.Second)
		c.Of(first)
		c.Of(second)
		synctest.Wait()
		if asked, changes := f.count(); asked != 5 || changes != 2 {
			t.Errorf("the same answers: asked %d times, %d changes", asked, changes)
		}
	})
}

// TestCountriesWithoutFile: that tor has none is told, and asked again later.
func TestCountriesWithoutFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(fakeGeoIP)
		c := runCountries(t, f)
		a := netip.MustParseAddr("192.0.2.1")
		c.Of(a)
		synctest.Wait()
		if code, open := c.Of(a); code != "" || open {
			t.Errorf("%q, %t", code, open)
		}
		if err := c.Trouble(); err == nil || !strings.Contains(err.Error(), "no GeoIP file") {
			t.Error(err)
		}
		time.Sleep(countryRetry + time.Second)
		c.Of(a)
		synctest.Wait()
		if asked, changes := f.count(); asked != 2 || changes != 1 {
			t.Errorf("there is none again: asked %d times, %d changes", asked, changes)
		}
		f.mu.Lock()
		f.file = map[string]string{"192.0.2.1": "de"}
		f.mu.Unlock()
		time.Sleep(countryRetry + time.Second)
		if code, open := c.Of(a); code != "" || open {
			t.Errorf("%q, %t", code, open)
		}
		synctest.Wait()
		if code, _ := c.Of(a); code != "de" || c.Trouble() != nil {
			t.Errorf("%q, %v", code, c.Trouble())
		}
	})
}

// TestCountriesHang: a tor that does not answer leaves the question open for seconds.
func TestCountriesHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeGeoIP{hangs: true}
		c := runCountries(t, f)
		a := netip.MustParseAddr("192.0.2.1")
		if _, open := c.Of(a); !open {
			t.Error("not open at first")
		}
		time.Sleep(countryPatience - time.Second)
		if _, open := c.Of(a); !open {
			t.Error("not open while tor may answer")
		}
		time.Sleep(2 * time.Second)
		if _, open := c.Of(a); open {
			t.Error("open for ever")
		}
		synctest.Wait()
		if c.Trouble() == nil {
			t.Error("no trouble")
		}
	})
}
