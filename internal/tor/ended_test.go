package tor

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"onionbalancer/internal/health"
	"onionbalancer/internal/tor/control"
)

// TestEnded: a circuit ends for those who share it when the service's tor or a relay
// ends it, and not when ours does that for want of use, or when another one ends.
func TestEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fakeTor{}
		p := run(t, control.Config{}, fake)
		synctest.Wait()
		visit := health.Visit{Address: addresses(1)[0], Port: 80, Circuit: "1"}
		other := visit
		other.Circuit = "2"
		watch := func(v health.Visit) <-chan struct{} {
			ended, err := p.Ended(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			return ended
		}
		ended, others := watch(visit), watch(other)
		tell := func(purpose, reason string) {
			fake.mu.Lock()
			fake.tell(fmt.Sprintf("CIRC 7 CLOSED PURPOSE=%s SOCKS_USERNAME=\"%s\" REASON=%s", purpose, p.socksUser(visit), reason))
			fake.mu.Unlock()
			synctest.Wait()
		}
		tell("HS_CLIENT_INTRO", "DESTROYED REMOTE_REASON=FINISHED")
		tell("HS_CLIENT_REND", "FINISHED")
		if closed(ended) {
			t.Error("an introduction's end, or the end of what nobody used, counts")
		}
		tell("HS_CLIENT_REND", "DESTROYED REMOTE_REASON=FINISHED")
		if !closed(ended) || closed(others) {
			t.Errorf("the end shows: %v, and for others: %v", closed(ended), closed(others))
		}
		ctx, cancel := context.WithCancel(t.Context())
		left, err := p.Ended(ctx, visit)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		if fake.setDown(true); closed(left) {
			t.Error("who looks no more is told")
		}
		synctest.Wait()
		if !closed(others) {
			t.Error("the connection's end does not show")
		}
	})
}
