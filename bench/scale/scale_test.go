package scale

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/hsdir"
	"onionbalancer/internal/balance"
	"onionbalancer/internal/credential"
	"onionbalancer/internal/daemon"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/internal/tor"
	"onionbalancer/internal/tor/control"
	"onionbalancer/selection"
	"onionbalancer/testnet/sim"
)

const (
	shardSize   = 250 // services that use the same instances, as hosting.ShardSize
	replicas    = 2   // instances of a shard
	tors        = 5
	publishRate = 10 // uploads a second through each, as the configuration says by default
	relays      = 3000
	churn       = 0.05           // of the relays, in a day
	settling    = 10 * time.Hour // hosted services make the descriptor of the next period within it
)

// custodian certifies with a key in memory.
type custodian struct{ key *descriptor.IdentityKey }

func (c custodian) Address() descriptor.Address { return c.key.Address() }
func (c custodian) Close() error                { return nil }

func (c custodian) Certify(_ context.Context, p descriptor.Period, signing ed25519.PublicKey, expiries descriptor.Expiries) (descriptor.HourlyCertificates, error) {
	blinded, err := c.key.Blind(p)
	if err != nil {
		return descriptor.HourlyCertificates{}, err
	}
	defer blinded.Wipe()
	return blinded.CertifyHours([32]byte(signing), expiries)
}

func (c custodian) RevisionKey(_ context.Context, p descriptor.Period) (descriptor.RevisionKey, error) {
	blinded, err := c.key.Blind(p)
	if err != nil {
		return descriptor.RevisionKey{}, err
	}
	defer blinded.Wipe()
	return blinded.RevisionKey(), nil
}

// fleet is a balancer of many services on a network.
type fleet struct {
	net      *network
	rooms    *daemon.Rooms
	services []*balance.Service
}

// TestScale measures as many services as BALANCER_SCALE says and prints one line
// of JSON.
func TestScale(t *testing.T) {
	services, err := strconv.Atoi(os.Getenv("BALANCER_SCALE"))
	if err != nil {
		t.Skip("BALANCER_SCALE does not say of how many services: make bench-scale")
	}
	hours, err := strconv.ParseFloat(os.Getenv("BALANCER_SCALE_HOURS"), 64)
	if err != nil {
		hours = 3
	}
	daemon.TuneMemory()
	shards := (services + shardSize - 1) / shardSize
	r := Result{Services: services, Shards: shards, Instances: shards * replicas}
	path, steady := os.Getenv("BALANCER_SCALE_PROFILE"), func() {}
	if path != "" {
		begin, begun := profiler(t, path)
		steady = func() { close(begin); <-begun }
		defer pprof.StopCPUProfile()
	}
	synctest.Test(t, func(t *testing.T) { measure(t, &r, time.Duration(hours*float64(time.Hour)), steady, path) })
	r.Queue = queueing(services).Seconds()
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s%s\n", Mark, line)
}

// measure fills in all but Queue. It calls steady when the steady state begins, and
// writes a profile of the heap at the end unless path is empty.
func measure(t *testing.T, r *Result, window time.Duration, steady func(), path string) {
	debug.FreeOSMemory()
	alone := memory(t, "VmRSS:")
	n := sim.New(sim.Config{Seed: 1, Relays: relays, Churn: churn})
	defer n.Close()
	net := newNetwork(t, n)
	backends := net.populate(r.Instances)
	n.Consensus().Text() // which the network keeps
	n.Consensus().Microdescs()
	debug.FreeOSMemory()
	r.NetworkRSS = memory(t, "VmRSS:") - alone
	forgetPeak(t)
	f := &fleet{net: net}
	began := time.Now()
	stop := f.start(t, r.Services, backends)
	defer stop()
	f.publish(t)
	r.Publish = time.Since(began).Minutes()
	time.Sleep(settling)
	steady()
	cpu, own, before := processTime(), net.cpu.Load(), net.snapshot()
	time.Sleep(window)
	after := net.snapshot()
	used := processTime() - cpu - time.Duration(net.cpu.Load()-own)
	perHour := window.Hours() * float64(r.Services)
	r.CPU = float64(used.Microseconds()) / 1000 / perHour
	r.NetworkCPU = float64(net.cpu.Load()-own) / 1e6 / perHour
	r.Fetches = float64(after.fetches-before.fetches) / window.Minutes()
	r.Readbacks = float64(after.readbacks-before.readbacks) / window.Minutes()
	r.Uploads = float64(after.posts-before.posts) / perHour
	r.Rejected = after.rejected
	r.Peak = memory(t, "VmHWM:") - r.NetworkRSS
	r.RSS = memory(t, "VmRSS:") - r.NetworkRSS
	if path != "" {
		heapProfile(t, path)
	}
	if f.starting() > r.Services/10 {
		t.Errorf("%d of %d services are not published everywhere at the end", f.starting(), r.Services)
	}
}

// populate adds instances, and returns when they are published.
func (n *network) populate(instances int) (backends []*sim.Instance) {
	for range instances {
		i := n.sim.AddInstance(sim.InstanceConfig{})
		n.instances[i.Address().Label()] = true
		backends = append(backends, i)
	}
	time.Sleep(2 * time.Minute)
	return backends
}

// publish waits until every service was published once: it may be between two editions
// afterwards.
func (f *fleet) publish(t *testing.T) {
	began := time.Now()
	for done := 0; done < len(f.services); {
		if published(f.services[done].Status()) {
			done++
			continue
		}
		time.Sleep(time.Minute)
		if time.Since(began) > 3*time.Hour {
			t.Fatalf("%d of %d services are not published everywhere after %s", f.starting(), len(f.services), time.Since(began))
		}
	}
}

// start starts services on the rooms of a daemon.
func (f *fleet) start(t *testing.T, services int, backends []*sim.Instance) (stop func()) {
	log := slog.New(slog.DiscardHandler)
	store, err := state.Open(t.TempDir(), state.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	var list []*tor.Tor
	for i := range tors {
		client := control.New(control.Config{Dial: f.net.dial(&conn{})})
		list = append(list, tor.New(fmt.Sprintf("tor-%d", i+1), client))
	}
	pool := tor.NewPool(list...)
	events := daemon.NewRecorder(log, func(a descriptor.Address) slog.LogValuer { return nil })
	f.rooms = daemon.NewRooms(pool, nil, store, nil, events.Record, publishRate)
	ctx, cancel := context.WithCancel(t.Context())
	env := f.rooms.Env(store, events.Record)
	var shard balance.Config
	for i := range services {
		if i%shardSize == 0 {
			shard = shardConfig(backends[i/shardSize*replicas:])
		}
		shard.Keys = keys(t, i)
		f.services = append(f.services, balance.NewService(shard, env))
	}
	var shared, running sync.WaitGroup
	shared.Go(func() {
		f.rooms.Run(ctx, func() {
			for _, s := range f.services {
				s.Moved()
			}
		})
	})
	shared.Go(func() { events.Run(ctx, store) })
	shared.Go(func() { daemon.ReturnMemory(ctx) })
	for _, s := range f.services {
		running.Go(func() { s.Run(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
		f.rooms.Close()
		shared.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// keys are those of the service of a number.
func keys(t *testing.T, number int) credential.Keys {
	key, err := descriptor.IdentityKeyFromSeed(binary.BigEndian.AppendUint64(make([]byte, 24), uint64(number)))
	if err != nil {
		t.Fatal(err)
	}
	return credential.Keys{Custodian: custodian{key}, Signing: credential.Memory{}, Reference: "memory"}
}

// shardConfig is what the customers of a shard have in common, as the daemon makes it.
func shardConfig(backends []*sim.Instance) balance.Config {
	cfg := balance.Config{Strategy: selection.Spread{}, Room: selection.Room{Points: 20, PerInstance: 3}, Hosted: true}
	for n, i := range backends[:replicas] {
		cfg.Instances = append(cfg.Instances, balance.Instance{Name: fmt.Sprintf("web%d", n+1), Address: i.Address(), Weight: 1})
	}
	return cfg
}

// starting counts the services of which an HSDir lacks the descriptor that clients fetch.
func (f *fleet) starting() (n int) {
	for _, s := range f.services {
		if !published(s.Status()) {
			n++
		}
	}
	return n
}

// published reports whether all HSDirs have the descriptor that clients fetch.
func published(s status.Service) bool {
	return slices.ContainsFunc(s.Descriptors, func(d status.Descriptor) bool { return d.Current && d.Confirmed == len(d.Slots) })
}

// queueing measures how long it takes to queue two editions of each service, on
// the clock: nothing is uploaded meanwhile.
func queueing(services int) time.Duration {
	var queues []*hsdir.UploadQueue
	for range tors {
		queues = append(queues, hsdir.NewUploadQueue(hsdir.UploadConfig{Poster: silent{}}))
	}
	began := time.Now()
	for i := range services {
		for p := range uint64(2) {
			u := hsdir.Upload{
				Period: descriptor.Period{Number: p}, Urgency: hsdir.UrgencyNew, Slots: make([]hsdir.Slot, 8),
				Body: func(context.Context, hsdir.Slot) ([]byte, error) { return nil, nil },
			}
			binary.BigEndian.PutUint64(u.Address[:], uint64(i))
			for n := range u.Slots {
				binary.BigEndian.PutUint64(u.Slots[n].HSDir[:], uint64(i)*16+p*8+uint64(n))
				u.Slots[n].Replica, u.Slots[n].Reserve = n%2+1, n >= 6
			}
			queues[i%tors].Upload(u)
		}
	}
	took := time.Since(began)
	for _, q := range queues {
		q.Close()
	}
	return took
}

// silent never confirms an upload.
type silent struct{}

func (silent) HSPost(ctx context.Context, _, _ string, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

// profiler starts the profile of the processor when its channel is closed, and
// closes the result. It runs outside of the bubble, whose time would stand still
// while the goroutine that writes the profile waits in the system.
func profiler(t *testing.T, path string) (begin chan struct{}, begun chan struct{}) {
	begin, begun = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(begun)
		<-begin
		cpu, err := os.Create(path + ".cpu")
		if err == nil {
			err = pprof.StartCPUProfile(cpu)
		}
		if err != nil {
			t.Error(err)
		}
	}()
	return begin, begun
}

// heapProfile writes a profile of the heap, and logs what memory is for.
func heapProfile(t *testing.T, path string) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("MiB: heap in use %.1f (%d objects: %.1f), idle %.1f (released %.1f), stacks %.1f of %d goroutines, profiler %.1f, collector %.1f, other %.1f; resident of files %.1f",
		mib(m.HeapInuse), m.HeapObjects, mib(m.HeapAlloc), mib(m.HeapIdle), mib(m.HeapReleased), mib(m.StackInuse), runtime.NumGoroutine(), mib(m.BuckHashSys), mib(m.GCSys), mib(m.OtherSys+m.MSpanSys+m.MCacheSys), memory(t, "RssFile:"))
	heap, err := os.Create(path + ".heap")
	if err == nil {
		err = pprof.WriteHeapProfile(heap)
	}
	if err != nil {
		t.Error(err)
	}
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// processTime is the processor time of the process, in the system as well.
func processTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic("scale: " + err.Error())
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// forgetPeak begins the process's VmHWM anew.
func forgetPeak(t *testing.T) {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Log("the peak is that of the whole process:", err)
	}
}

// memory reads a figure of /proc/self/status, in MiB.
func memory(t *testing.T, key string) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == key {
			kib, err := strconv.ParseFloat(string(fields[1]), 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Fatalf("no %s", key)
	return 0
}
