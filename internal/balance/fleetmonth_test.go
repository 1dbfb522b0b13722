package balance

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/bench/hosting"
)

// oldestAllowed is the age that no descriptor reaches which clients may get: HSDirs keep it
// for three hours.
const oldestAllowed = 170 * time.Minute

// startsAt is when the balancer starts, after midnight.
const startsAt = 22*time.Hour + 13*time.Minute

// TestMonthOfHosting is a month of many customers, with replicas that fail and restart, points
// that end, tors that die, relays that come and go, and both rotations. Without make soak it
// is a day of a few.
func TestMonthOfHosting(t *testing.T) {
	cfg := fleetConfig{
		customers: 16, shards: 2, tors: 2, inNetwork: 100, churn: 0.05, rate: 1, crash: 12 * time.Hour, freeze: 24 * time.Hour, torDies: 12 * time.Hour, seed: 11,
	}
	days, scarce := 1.1, 3*time.Minute // the latter until an HSDir has no descriptor any more of which few points live
	if soaking() {
		cfg.customers, cfg.shards, cfg.rate, days, scarce = 400, 4, 5, 3, 9*time.Minute // there is a queue
	}
	if size, err := strconv.Atoi(os.Getenv("BALANCER_HOSTING")); err == nil {
		cfg = fleetConfig{
			customers: size, shards: max(1, size/250), tors: max(2, min(5, size/2000)), inNetwork: 3000, churn: 0.05, rate: 10,
			crash: 3 * 24 * time.Hour, freeze: 6 * 24 * time.Hour, torDies: 4 * 24 * time.Hour, seed: 11,
		}
		scarce = 9 * time.Minute
		if days, err = strconv.ParseFloat(os.Getenv("BALANCER_HOSTING_DAYS"), 64); err != nil {
			days = 30
		}
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(startsAt)
		before := cpuTime()
		f := newFleet(t, cfg)
		f.run(time.Duration(days*24*float64(time.Hour)), func() { f.read(t) })
		r := f.result(cpuTime() - before)
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if os.Getenv("BALANCER_HOSTING") != "" {
			fmt.Printf("%s%s\n", hosting.Mark, line)
		}
		r.Day = nil
		t.Logf("%+v", r)
		if f.tally.oldest > oldestAllowed {
			t.Errorf("a descriptor became %s old", f.tally.oldest)
		}
		if f.tally.spell > 5*time.Minute {
			t.Errorf("a customer was unreachable for %s", f.tally.spell)
		}
		if f.tally.scarce > scarce {
			t.Errorf("few points of a descriptor lived for %s", f.tally.scarce)
		}
		if second, is := f.ahead(); is {
			t.Errorf("the tors were ahead of their rate in second %d", second)
		}
	})
}

// cpuTime is the processor time of the process.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// An instance that restarts so soon after a period began that it could have shown clients
// other points for that reason: those that it shows no more are dead, and are published
// for as long only as it takes to fetch and upload.
func TestRestartAfterPeriodBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(startsAt)
		const never = 1e5 * time.Hour
		f := newFleet(t, fleetConfig{customers: 16, shards: 2, tors: 2, inNetwork: 100, rate: 5, crash: never, freeze: never, torDies: never, seed: 11})
		noon := time.Now().Truncate(24 * time.Hour).Add(36 * time.Hour)
		f.run(time.Until(noon.Add(40*time.Minute)), func() { f.read(t) })
		if f.tally.scarce != 0 {
			t.Errorf("before, few points of a descriptor lived for %s", f.tally.scarce)
		}
		for _, s := range f.shards {
			s.replicas[0].restart()
		}
		f.run(3*time.Hour, func() { f.read(t) })
		if long := f.tally.scarce; long == 0 || long > 6*time.Minute {
			t.Errorf("few points of a descriptor lived for %s", long)
		}
	})
}

// Two of five tors are dead over noon, when all services go over to other points: those that
// serve make up for them.
func TestTorsDeadOverNoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(9*time.Hour + 30*time.Minute)
		const never = 1e5 * time.Hour
		f := newFleet(t, fleetConfig{
			customers: 900, shards: 18, tors: 5, inNetwork: 100, rate: 1, crash: 18 * time.Hour, freeze: 36 * time.Hour, torDies: never, seed: 11,
		})
		noon := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour)
		for _, tor := range f.tors[:2] {
			tor.next, tor.outage = noon.Add(-30*time.Minute), 5*time.Hour
		}
		f.run(time.Until(noon.Add(4*time.Hour)), func() { f.read(t) })
		if f.tally.oldest > oldestAllowed {
			t.Errorf("a descriptor became %s old", f.tally.oldest)
		}
		if f.tally.spell > 5*time.Minute {
			t.Errorf("a customer was unreachable for %s", f.tally.spell)
		}
	})
}
