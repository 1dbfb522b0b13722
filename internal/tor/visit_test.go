package tor

import (
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/tor/control"
)

// TestSocksPort: a tor that gets visits through is not asked at each of them; one that
// does not is.
func TestSocksPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeTor{}
		p := run(t, control.Config{}, fake)
		fake.set("status/enough-dir-info", "1")
		fake.set("net/listeners/socks", `"unix:/run/tor/socks"`)
		time.Sleep(time.Second)
		tor := p.tors[0]
		step := func(what, want string) {
			t.Helper()
			got, err := tor.socksPort(t.Context())
			switch {
			case want == "" && err == nil:
				t.Errorf("%s: %q, and tor was not asked", what, got.address)
			case want != "" && (err != nil || got.network != "unix" || got.address != want):
				t.Errorf("%s: %q, %v, want %q", what, got.address, err, want)
			}
		}
		step("at first", "/run/tor/socks")
		fake.set("status/enough-dir-info", "0")
		step("before any visit", "")
		tor.answers(true)
		step("after one that got through", "/run/tor/socks")
		time.Sleep(wellFor)
		step("long after it", "")
		tor.answers(true)
		tor.answers(false)
		step("after one that did not", "")
		fake.set("status/enough-dir-info", "1")
		fake.set("net/listeners/socks", `"unix:/run/tor/other"`)
		step("the port has moved", "/run/tor/other")
	})
}
