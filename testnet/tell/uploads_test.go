package tell

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/testnet/sim"
)

// timers is when a publisher uploads: tor's own times, or others.
type timers struct {
	refresh   [2]time.Duration // between two versions of which nothing changed
	consensus [2]time.Duration // after a consensus's fresh-until, when the next is fetched
	noon      bool             // all points change at 12:00
	points    int
	gap       bool // a new HSDir alone gets an upload
}

// torTimers are those of tor (hs_service.h, networkstatus.c).
var torTimers = timers{
	refresh:   [2]time.Duration{60 * time.Minute, 120 * time.Minute},
	consensus: [2]time.Duration{45 * time.Minute, 45*time.Minute + 75*time.Minute*7/8},
	points:    3,
}

// modelled are the uploads of so many services of their own tors, by the timers alone:
// of the network there is nothing but the rate, of one relay in an hour, at which they
// leave and are replaced.
func modelled(random *rand.Rand, start time.Time, days, services int, churn float64, t timers) (list []Upload) {
	for s := range services {
		m := &model{timers: t, random: random, churn: churn, name: fmt.Sprint("service", s)}
		list = append(list, m.run(start, start.Add(time.Duration(days)*24*time.Hour))...)
	}
	return list
}

// model is one service and its tor.
type model struct {
	timers
	random *rand.Rand
	churn  float64
	name   string
	list   []Upload
}

// modelDescriptor is one of its two descriptors.
type modelDescriptor struct {
	name   string
	hsdirs [8]string
	serial int
	next   time.Time   // of the refresh
	points []time.Time // when they end
	end    time.Time
}

func (m *model) between(b [2]time.Duration) time.Duration {
	return b[0] + time.Duration(m.random.Int64N(int64(b[1]-b[0])))
}

// build makes the descriptor that begins with the day.
func (m *model) build(day, now time.Time) *modelDescriptor {
	d := &modelDescriptor{name: m.name + day.Format(" 2006-01-02"), next: now.Add(10 * time.Second), end: day.Add(48 * time.Hour)}
	for n := range d.hsdirs {
		d.hsdirs[n] = m.hsdir(d)
	}
	for range m.points {
		d.points = append(d.points, m.pointEnd(now))
	}
	return d
}

func (m *model) hsdir(d *modelDescriptor) string {
	d.serial++
	return fmt.Sprint(d.name, " ", d.serial)
}

// pointEnd is when a point that is made now ends: of age, or with its relay.
func (m *model) pointEnd(now time.Time) time.Time {
	end := now.Add(m.between([2]time.Duration{18 * time.Hour, 24 * time.Hour}))
	lost := now.Add(time.Duration(m.random.ExpFloat64() / m.churn * float64(time.Hour)))
	if lost.Before(end) {
		return lost.Add(m.between([2]time.Duration{30 * time.Second, 4 * time.Minute}))
	}
	return end
}

// run goes from minute to minute.
func (m *model) run(from, to time.Time) []Upload {
	const step = 10 * time.Second
	begin := from.Add(-48 * time.Hour) // for all that hangs together to have come about
	has := begin                       // valid-after of the consensus that tor has
	fetch := has.Add(time.Hour + m.between(m.consensus))
	var day time.Time
	var descriptors []*modelDescriptor
	for now := begin; now.Before(to); now = now.Add(step) {
		news := 0
		if !now.Before(fetch) {
			newest := now.Add(-2 * time.Minute).Truncate(time.Hour)
			news = int(newest.Sub(has) / time.Hour)
			has = newest
			fetch = has.Add(time.Hour + m.between(m.consensus))
			if today := has.Truncate(24 * time.Hour); !today.Equal(day) {
				day = today
				descriptors = append(descriptors, m.build(day, now))
				descriptors = descriptors[max(0, len(descriptors)-2):]
			}
		}
		for _, d := range descriptors {
			m.look(d, now, news)
		}
	}
	return m.list
}

// look does for a descriptor what is due, when so many consensuses are new.
func (m *model) look(d *modelDescriptor, now time.Time, news int) {
	due := !now.Before(d.next)
	for n, end := range d.points {
		if noon := m.noon && now.Format("15:04:05") == "12:00:00"; noon || !now.Before(end) {
			d.points[n], due = m.pointEnd(now), true
		}
	}
	moved := -1
	for range news {
		// A relay of the eight leaves, or a new one comes between them.
		for n := range d.hsdirs {
			if m.random.Float64() < 2*m.churn {
				d.hsdirs[n], moved = m.hsdir(d), n
			}
		}
	}
	if m.gap && moved >= 0 && !due {
		m.list = append(m.list, Upload{At: now, Descriptor: d.name, HSDir: d.hsdirs[moved]})
		return
	}
	if !due && moved < 0 {
		return
	}
	for _, h := range d.hsdirs {
		m.list = append(m.list, Upload{At: now, Descriptor: d.name, HSDir: h})
	}
	d.next = now.Add(m.between(m.refresh))
}

// soaking reports whether tests may take as long as they like: "make soak".
func soaking() bool { return os.Getenv("BALANCER_SOAK") != "" }

// monday is when the simulated time begins.
var monday = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

// habitAlpha is how often comparisons of habits of one publisher may fail by chance, if
// their seeds change.
const habitAlpha = 1e-3

// TestTimersAreTold: publishers with other timers than tor's are told from it, and
// one with the same is not.
func TestTimersAreTold(t *testing.T) {
	const days, services, churn = 5, 6, 0.01
	habits := func(seed uint64, change func(*timers)) Habits {
		timers := torTimers
		change(&timers)
		list := modelled(rand.New(rand.NewPCG(seed, 1)), monday, days, services, churn, timers)
		return HabitsOf(list, monday, monday.Add(days*24*time.Hour))
	}
	tor := habits(1, func(*timers) {})
	if tells := CompareHabits(tor, habits(2, func(*timers) {})).Tells(habitAlpha); len(tells) > 0 {
		t.Errorf("tor is told from itself by %v", tells)
	}
	for name, change := range map[string]func(*timers){
		"twenty points": func(m *timers) { m.points = 20 },
		"a refresh an hour": func(m *timers) {
			m.refresh = [2]time.Duration{55 * time.Minute, 65 * time.Minute}
		},
		"an early consensus": func(m *timers) {
			m.consensus = [2]time.Duration{2 * time.Minute, 4 * time.Minute}
		},
		"all points at noon":     func(m *timers) { m.noon = true },
		"an upload for each gap": func(m *timers) { m.gap = true },
	} {
		if report := CompareHabits(tor, habits(3, change)); len(report.Tells(habitAlpha)) == 0 {
			t.Errorf("%s: not told; %v", name, report)
		}
	}
}

// TestSimulatedTor: the simulation's services upload when the model says that tor does.
func TestSimulatedTor(t *testing.T) {
	const days, services, churn = 6, 6, 0.01
	var list []Upload
	var from time.Time
	synctest.Test(t, func(t *testing.T) {
		n := sim.New(sim.Config{Seed: 5, Relays: 200, Churn: 24 * churn})
		defer n.Close()
		for range services {
			n.AddInstance(sim.InstanceConfig{})
		}
		n.OnUpload(func(r sim.Received) {
			list = append(list, Upload{At: r.At, Descriptor: string(r.Blinded[:]), HSDir: r.By.Fingerprint()})
		})
		time.Sleep(48 * time.Hour)
		from = time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)
		time.Sleep(time.Until(from.Add(days * 24 * time.Hour)))
	})
	seen := HabitsOf(list, from, from.Add(days*24*time.Hour))
	want := HabitsOf(modelled(rand.New(rand.NewPCG(9, 1)), from, days, services, churn, torTimers), from, from.Add(days*24*time.Hour))
	for _, f := range CompareHabits(seen, want) {
		t.Log(f)
	}
	for _, f := range CompareHabits(seen, want).Tells(habitAlpha) {
		t.Errorf("the simulation's tor is told from the model by %v", f)
	}
}
