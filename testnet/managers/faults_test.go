package managers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"onionbalancer/internal/cluster"
	"onionbalancer/internal/failpoint"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/etcdlab"
	"onionbalancer/testnet/sim"
)

// names of managers: nothing else has them by chance.
var names = []string{"amsterdam", "barcelona", "casablanca", "dortmund", "edinburgh", "florence"}

// inFlight is how long after it was launched an upload arrives at most, on a busy machine.
const inFlight = 2 * time.Second

// A manager is killed with kill -9: all of its services are taken, and nothing is published
// that was not due. What is due then is published by whoever has it.
func TestKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 60, managers: names[:3]})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	began := time.Now()
	w.manager(names[1]).kill()
	took := w.until("taken", time.Minute, w.ownedBy(names[0], names[2]))
	time.Sleep(3 * time.Second)
	uploads := len(w.log.Uploads(began))
	w.within("taken", took, 15*time.Second)
	if uploads > 0 {
		t.Errorf("%d uploads, and nothing was due (V7)", uploads)
	}
	stop()
	w.changed()
	w.judge()
}

// Managers that stop for a while, each at another point of its work, store nothing over what
// those who took their services published, and launch nothing once they are awake.
func TestPaused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 60, managers: names[:1+len(failpoint.Points)]})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	began := time.Now()
	for n, point := range failpoint.Points {
		w.managers[1+n].arm(point)
	}
	w.change()
	for n, point := range failpoint.Points {
		w.until(point, time.Minute, func() bool { return w.managers[1+n].reached(point) })
	}
	paused := time.Now()
	t.Logf("all are paused after %s, %d uploads", time.Since(began).Round(time.Millisecond), len(w.log.Uploads(began)))
	took := w.until("taken", time.Minute, w.ownedBy(names[0]))
	w.until("published", time.Minute, w.publishedBy(names[0], began))
	w.within("taken", took, 15*time.Second)
	if soaking() {
		time.Sleep(time.Minute - time.Since(paused))
	}
	w.quiet(time.Second)
	awake := time.Now()
	for _, m := range w.managers[1:] {
		w.log.Learnt(awake.Add(inFlight), m.name)
		m.signal(syscall.SIGCONT)
	}
	for _, m := range w.managers[1:] {
		w.until("awake", time.Minute, func() bool { s := m.status(); return s.Joined && s.Owned == 0 })
	}
	time.Sleep(5 * time.Second)
	stored := 0
	after := w.log.Uploads(awake)
	for _, u := range after {
		if u.Stored && u.Manager != names[0] {
			stored++
		}
	}
	t.Logf("%d uploads were in flight, of which %d were stored", len(after), stored)
	if stored > 0 {
		t.Errorf("%d stale uploads stored", stored)
	}
	if len(after) > 20 { // some hundreds wait in the queues
		t.Errorf("%d uploads after the pause", len(after))
	}
	stop()
	w.judge()
}

// lasts is how long a fault lasts: as it should, or as can be borne.
func lasts(whole, short time.Duration) time.Duration {
	if soaking() {
		return whole
	}
	return short
}

// A manager that is cut off from etcd goes on with what it has reserved, while another takes
// its services. When the way is mended its last changes of records arrive late. It uploads
// nothing once it knows.
func TestCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 30, managers: names[:2]})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	one, cut := w.managers[0], w.managers[1]
	began := time.Now()
	cut.etcd.late.Store(true)
	cut.etcd.setCut(true)
	w.until("taken", time.Minute, func() bool { return w.shares()[one.name] == len(w.services) })
	w.change()
	w.until("published by the new owner", time.Minute, w.publishedBy(one.name, began))
	time.Sleep(lasts(time.Minute, 0) - time.Since(began))
	stale := 0
	for _, u := range w.log.Uploads(began) {
		if u.Manager == cut.name {
			stale++
		}
	}
	t.Logf("cut off for %s, %d uploads of who was", time.Since(began).Round(time.Millisecond), stale)
	if stale == 0 {
		t.Error("the one that was cut off published nothing: it should go on")
	}
	cut.etcd.setCut(false)
	mended := time.Now()
	w.until("learnt", time.Minute, func() bool { s := cut.status(); return s.Joined && s.Owned == 0 })
	t.Logf("learnt within %s", time.Since(mended).Round(time.Millisecond))
	w.log.Learnt(time.Now().Add(inFlight), cut.name)
	w.changed()
	stop()
	w.judge()
}

// An etcd that loses its leader, has a member that hangs, or has no quorum, is noticed by
// nobody: what changes meanwhile is published, and nothing moves.
func TestEtcd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 30, managers: names[:3], etcd: etcdlab.Config{Members: 3}})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	began := time.Now()
	lab := w.etcd
	for range int(lasts(5, 1)) {
		leader, err := lab.Leader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lab.Kill(leader)
		time.Sleep(lasts(20*time.Second, 3*time.Second))
		if err := lab.Restart(leader); err != nil {
			t.Fatal(err)
		}
		if _, err := lab.Leader(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	_ = lab.Pause(0)
	time.Sleep(lasts(time.Minute, time.Second))
	_ = lab.Pause(1)
	lost := time.Now()
	time.Sleep(lasts(5*time.Minute, 5*time.Second))
	w.changed()
	time.Sleep(lasts(10*time.Minute, 12*time.Second) - time.Since(lost))
	t.Logf("no quorum for %s", time.Since(lost).Round(time.Second))
	_ = lab.Resume(0)
	_ = lab.Resume(1)
	for _, m := range w.managers {
		w.until("joined again", time.Minute, func() bool { s := m.status(); return s.Joined && s.Store.Error == "" })
	}
	w.changed()
	for _, m := range w.managers { // others move in the end: the first one has none
		if n := m.status().Counts.Taken.Dead; n > 0 {
			t.Errorf("%s took %d services of managers that were not dead", m.name, n)
		}
	}
	t.Logf("all within %s", time.Since(began).Round(time.Second))
	stop()
	w.judge()
}

// Answers of etcd that are lost, watches that break, and a compaction while a manager cannot
// follow cost nothing, and managers agree soon after.
func TestAnswersLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 30, managers: names[:3]})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	for range int(lasts(10, 1)) {
		for _, m := range w.managers {
			m.etcd.loseAnswers.Store(3)
			m.etcd.loseRequests.Store(2)
		}
		w.change()
		time.Sleep(4 * time.Second)
		for _, m := range w.managers {
			m.etcd.breakConnections()
		}
		behind := w.managers[2]
		behind.etcd.setCut(true)
		w.managers[1].etcd.loseAnswers.Store(2)
		w.changed()
		revision, err := w.etcd.Revision(t.Context())
		if err == nil {
			err = w.etcd.Compact(t.Context(), revision)
		}
		if err != nil {
			t.Fatal(err)
		}
		behind.etcd.setCut(false)
	}
	for _, m := range w.managers {
		m.etcd.loseAnswers.Store(1)
	}
	w.managers[1].order(status.ClusterOrder{Word: "drain"})
	w.within("agreed", w.until("they agree", time.Minute, w.ownedBy(names[0], names[2])), 10*time.Second)
	w.changed()
	stop()
	w.judge()
}

// All managers are started again, one after the other: nothing is published for that, and no
// service is without an owner for long.
func TestRolling(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 30, managers: names[:3]})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	began := time.Now()
	for n, m := range w.managers {
		m.order(status.ClusterOrder{Word: "drain"})
		w.until("drained", time.Minute, func() bool { return w.shares()[m.name] == 0 && w.shares()[""] == 0 })
		m.stop()
		m.start()
		w.until("back", time.Minute, func() bool { return m.status().Joined })
		if n == 1 { // without a drain: it gives its services as it ends
			other := w.managers[2]
			other.stop()
			w.until("taken", time.Minute, func() bool { return w.shares()[other.name] == 0 && w.shares()[""] == 0 })
			other.start()
			w.until("back", time.Minute, func() bool { return other.status().Joined })
		}
	}
	uploads, vacant := len(w.log.Uploads(began)), w.log.Vacant(began)
	w.within("given and taken", vacant, 2*time.Second)
	if uploads > 0 {
		t.Errorf("%d uploads, and nothing was due (V7)", uploads)
	}
	w.changed()
	stop()
	w.judge()
}

// Managers whose clocks differ by hours take services from each other in any direction.
func TestSkew(t *testing.T) {
	t.Parallel()
	skews := []time.Duration{time.Hour, -time.Hour}
	if soaking() {
		skews = append(skews, 48*time.Hour, -48*time.Hour)
	}
	for _, skew := range skews {
		t.Run(skew.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{services: 20, managers: names[:2]})
			w.managers[1].skew = skew
			w.begin() // all are the other's
			one, other := w.managers[0], w.managers[1]
			w.until("the clock is seen", time.Minute, func() bool {
				members := one.status().Members
				n := slices.IndexFunc(members, func(m status.Member) bool { return m.Name == other.name })
				return n >= 0 && (time.Duration(members[n].Skew)*time.Second-skew).Abs() < 10*time.Minute
			})
			stop := w.visitAll(50 * time.Millisecond)
			other.kill()
			w.until("taken", time.Minute, w.ownedBy(one.name))
			w.changed()
			other.start()
			w.until("back", time.Minute, func() bool { return other.status().Joined })
			one.kill()
			w.until("taken back", time.Minute, w.ownedBy(other.name))
			w.changed()
			stop()
			w.judge()
		})
	}
}

// An etcd without space is an alarm at once. What is reserved is published, and when there is
// space again all goes on without a restart.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 20, managers: names[:3], etcd: etcdlab.Config{Quota: 4 << 20}})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	engine := w.engine()
	var version int64
	var err error
	for err == nil {
		var made bool
		version, made, _, err = engine.Txn(t.Context(), []cluster.Op{{Key: "rubbish", Version: version, Value: make([]byte, 1<<20)}})
		if err == nil && !made {
			t.Fatal("somebody else writes rubbish")
		}
	}
	if !errors.Is(err, cluster.ErrNoSpace) {
		t.Fatal(err)
	}
	full := time.Now()
	for _, m := range w.managers {
		w.until("alarm", time.Minute, func() bool { return len(m.status().Store.Alarms) > 0 })
	}
	w.within("alarm", time.Since(full), 5*time.Second)
	w.changed()
	revision, err := w.etcd.Revision(t.Context())
	if err = errors.Join(err, w.etcd.Compact(t.Context(), revision), w.etcd.Defrag(t.Context()), w.etcd.Disarm(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.managers {
		w.until("mended", time.Minute, func() bool { s := m.status(); return s.Joined && len(s.Store.Alarms) == 0 })
	}
	w.managers[1].kill()
	w.until("taken", time.Minute, w.ownedBy(names[0], names[2]))
	w.changed()
	stop()
	w.judge()
}

// A disk that fills up ends etcd: managers say so, publish what is reserved, and go on without
// a restart once it has room and runs again.
func TestFullDisk(t *testing.T) {
	if !soaking() {
		t.Skip("it mounts a file system, as root: make soak")
	}
	t.Parallel()
	disk := t.TempDir()
	mount := func(flags uintptr, megabytes int) {
		if err := syscall.Mount("tmpfs", disk, "tmpfs", flags, fmt.Sprintf("size=%dm", megabytes)); err != nil {
			t.Fatal(err)
		}
	}
	mount(0, 80) // of which a write-ahead log takes 64 at once
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	w := newWorld(t, options{services: 20, managers: names[:3], etcd: etcdlab.Config{Dir: disk}})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	engine := w.engine()
	for n, err := 0, error(nil); err == nil; n++ {
		attempt, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, _, _, err = engine.Txn(attempt, []cluster.Op{{Key: fmt.Sprint("rubbish", n), Value: make([]byte, 1<<20)}})
		cancel()
	}
	full := time.Now()
	for _, m := range w.managers {
		w.until("told", time.Minute, func() bool { return m.status().Store.Error != "" })
	}
	w.within("told", time.Since(full), 15*time.Second)
	w.changed()
	if !strings.Contains(w.etcd.Log(0), "no space left on device") {
		t.Error("etcd has room")
	}
	w.etcd.Kill(0)
	mount(syscall.MS_REMOUNT, 400)
	if err := w.etcd.Restart(0); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.managers {
		w.until("mended", time.Minute, func() bool { s := m.status(); return s.Joined && s.Store.Error == "" })
	}
	w.managers[1].kill()
	w.until("taken", time.Minute, w.ownedBy(names[0], names[2]))
	w.changed()
	stop()
	w.judge()
}

// When the last manager with the keys of services dies, the others say that nobody can
// publish them, and do not try; they are published when it is back.
func TestCustody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 10, hosted: true, managers: names[:3], without: names[2:3]})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	first, second, without := w.managers[0], w.managers[1], w.managers[2]
	second.kill()
	w.within("taken by the other who can", w.until("taken", time.Minute, w.ownedBy(first.name)), 15*time.Second)
	first.kill()
	w.within("orphans are named", w.until("orphans", time.Minute, func() bool { return without.status().Orphaned == len(w.services) }), 15*time.Second)
	first.start()
	w.until("back", time.Minute, func() bool { return w.ownedBy(first.name)() && without.status().Orphaned == 0 })
	for _, u := range w.log.Uploads(time.Time{}) {
		if u.Manager == without.name {
			t.Error("who has no key published")
		}
	}
	stop()
	w.judge()
}

// One of three managers of thousands of customers is killed: all of its own are taken, and
// nothing is published for that.
func TestThousands(t *testing.T) {
	thousands := 100
	if soaking() {
		thousands = 10_000 // with nothing beside them: they take both cores
	} else {
		t.Parallel()
	}
	w := newWorld(t, options{services: thousands, hosted: true, managers: names[:3]})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	began := time.Now()
	w.managers[1].kill()
	w.within("taken", w.until("taken", time.Minute, w.ownedBy(names[0], names[2])), 15*time.Second)
	w.until("going on", time.Minute, w.servedBy(names[0], names[2]))
	t.Logf("they go on after %s", time.Since(began).Round(time.Millisecond))
	time.Sleep(3 * time.Second)
	if uploads := w.log.Uploads(began); len(uploads) > 0 {
		t.Errorf("%d uploads, and nothing was due (V7)", len(uploads))
	}
	stop()
	w.judge()
}

// A newer balancer that changes how records are laid out stops the older ones: they say so,
// write nothing any more, and go on with what they have reserved. When it takes that back they
// go on as before.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{services: 10, managers: names[:2]})
	w.begin()
	stop := w.visitAll(50 * time.Millisecond)
	engine, name := w.engine(), w.prefix+"layout"
	setLayout := func(change int) {
		items, _, _, err := engine.Range(t.Context(), name, 0)
		if err != nil || len(items) != 1 {
			t.Fatal(err, items)
		}
		items[0].Value[0] += byte(change)
		if _, made, _, err := engine.Txn(t.Context(), []cluster.Op{{Key: name, Version: items[0].Version, Value: items[0].Value}}); err != nil || !made {
			t.Fatal(err, made)
		}
	}
	setLayout(1)
	for _, m := range w.managers {
		w.until("refused", time.Minute, func() bool { return strings.Contains(m.status().Store.Error, "newer") })
	}
	t.Log(w.managers[1].status().Store.Error)
	turns := w.shares()
	w.changed()
	w.managers[0].kill()
	w.managers[0].start()
	w.until("said at the start", time.Minute, func() bool { return len(w.managers[0].logged("newer")) > 0 })
	time.Sleep(2 * time.Second)
	if s := w.managers[0].status(); s.Joined || s.Owned > 0 {
		t.Errorf("an older one joined: %+v", s)
	}
	setLayout(-1)
	for _, m := range w.managers {
		w.until("goes on", 2*time.Minute, func() bool { s := m.status(); return s.Joined && s.Store.Error == "" })
	}
	if after := w.shares(); fmt.Sprint(after) != fmt.Sprint(turns) {
		t.Errorf("services moved: %v, before %v", after, turns)
	}
	w.changed()
	stop()
	w.judge()
}

// A manager whose tor is cut off, and one that is cut off from etcd too, have their services
// published by the other; they publish nothing from old views when they are back.
func TestTorCutOff(t *testing.T) {
	if !soaking() {
		t.Skip("it takes minutes: BALANCER_SOAK")
	}
	t.Parallel()
	for what, both := range map[string]bool{"tor": false, "both": true} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{services: 20, managers: names[:2]})
			w.begin()
			stop := w.visitAll(50 * time.Millisecond)
			cut := w.managers[1]
			began := time.Now()
			cut.tor.SetFaults(sim.ControlFaults{Refuse: true})
			cut.tor.Restart(time.Hour, 0)
			cut.etcd.setCut(both)
			w.until("given", 5*time.Minute, func() bool { return w.shares()[names[0]] == len(w.services) })
			t.Logf("given or taken within %s", time.Since(began).Round(time.Millisecond))
			w.changed()
			cut.tor.SetFaults(sim.ControlFaults{})
			cut.tor.Restart(0, 0)
			cut.etcd.setCut(false)
			w.until("back", 5*time.Minute, func() bool { s := cut.status(); return s.Joined && s.Owned == 0 && s.Unfit == "" })
			w.log.Learnt(time.Now().Add(inFlight), cut.name)
			w.changed()
			stop()
			w.judge()
		})
	}
}
