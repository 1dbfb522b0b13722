package sim

import (
	"fmt"
	"math"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/selection"
)

// rotating has 200 instances, of which six slots of 20 points hold 120 at a time, and
// clients who stay an hour and visit every five minutes, in the course of 16 refreshes.
// Points never die.
func rotating(t *testing.T, clients int, turning bool) (tally Tally) {
	const turns, each = 16, 88 * time.Minute // nearly one period
	onBench(t, 200, Config{Seed: 8, Relays: 400}, func(t *testing.T, b *bench) {
		noon := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour)
		time.Sleep(time.Until(noon) + 5*time.Minute)
		b.turnTo(b.net.Consensus().current())
		request := selection.Request{Room: selection.Room{Points: 20, PerInstance: 3}, Refresh: true}
		for i := range b.instances {
			points := b.live(i)
			for p := range points {
				request.Candidates = append(request.Candidates, selection.Candidate{Instance: fmt.Sprint(i), Weight: 1, Point: &points[p], FirstSeen: noon})
			}
		}
		for k := range b.slots {
			request.Slots = append(request.Slots, selection.Slot{Replica: 1 + k/3, Asked: true})
		}
		var crowd *Crowd
		for turn := range uint64(turns) {
			request.Now = time.Now()
			if turning {
				request.Turn = turn
			}
			for k, chosen := range selection.Assign(selection.Spread{}, request).Points {
				var points []descriptor.IntroductionPoint
				request.Slots[k].Holds = nil
				for _, c := range chosen {
					points = append(points, *c.Point)
					request.Slots[k].Holds = append(request.Slots[k].Holds, c.Point.AuthKey)
				}
				b.put(k, turn+1, points...)
			}
			if crowd == nil {
				crowd = b.net.NewCrowd(b.key.Address(), CrowdConfig{Clients: clients, ConsensusDelay: time.Minute})
			}
			time.Sleep(each)
		}
		tally = crowd.Tally()
	})
	return tally
}

// turnTo has the bench work on another ring.
func (b *bench) turnTo(r *ring) {
	b.period = r.key.period
	b.slots = r.fetch(&b.net.cfg, b.keys(b.period).Blinded)
}

// In a day every instance has its share of the visits, though not a third of them has a
// place at all times, and no visit meets a point in vain.
func TestRotation200(t *testing.T) {
	t.Parallel()
	tally := rotating(t, 1000, true)
	mean := float64(tally.Visits) / 200
	off := 0.0
	for _, i := range tally.Answered {
		off = max(off, math.Abs(float64(i)-mean))
	}
	t.Logf("%d visits, %d of 200 instances, the worst share is %.1f %% off", tally.Visits, len(tally.Answered), 100*off/mean)
	if len(tally.Answered) != 200 || off > 0.1*mean+4*math.Sqrt(mean) {
		t.Errorf("%d of 200 instances answered; of about %.0f visits one has %.0f too many or too few", len(tally.Answered), mean, off)
	}
	if tally.Lost > 0 || tally.Retries > 0 {
		t.Errorf("of %d visits %d are lost, and %d points tried in vain", tally.Visits, tally.Lost, tally.Retries)
	}
	if still := rotating(t, 50, false); len(still.Answered) != 120 {
		t.Errorf("%d instances answered without rotation", len(still.Answered))
	}
}
