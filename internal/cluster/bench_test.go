package cluster_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/cluster"
	"onionbalancer/internal/cluster/clustertest"
	"onionbalancer/internal/state"
)

const many = 10_000

func manyKey(n int) state.Key {
	return state.ServiceKey(descriptor.Address{byte(n), byte(n >> 8), 7})
}

// realistic is the value of a service with two periods of nine points, about 5 KB.
func realistic(b *testing.B) []byte {
	b.Helper()
	s := state.Service{Owner: "m1", Term: 1}
	for period := range uint64(2) {
		s.Ceilings = append(s.Ceilings, state.Ceiling{Period: 20_000 + period, Minutes: 1440, Counter: 1 << 40})
		s.Made = append(s.Made, state.Made{Period: 20_000 + period, Minutes: 1440, Revision: 1 << 40, Contents: state.Bytes32{1}, Signer: state.Bytes32{2}, Built: time.Unix(1_800_000_000, 0), Refresh: time.Unix(1_800_005_000, 0)})
		for range 9 {
			s.Points = append(s.Points, state.Published{Instance: state.Address{3}, AuthKey: state.Bytes32{4}, EncKey: state.Bytes32{5}, Relay: fmt.Sprintf("%040X", 6)})
		}
	}
	value, err := json.Marshal(s)
	if err != nil {
		b.Fatal(err)
	}
	return value
}

// filled returns an engine with 10,000 records, and a store that has them.
func filled(b *testing.B, value []byte) (*clustertest.Fake, *cluster.Store) {
	b.Helper()
	f := clustertest.New()
	s := open(b, f.Client(), nil)
	swapAll(b, s, value, make([]uint64, many))
	f.Compact() // whose history is not the store's memory
	return f, s
}

// swapAll writes all records from 200 goroutines.
func swapAll(b *testing.B, s *cluster.Store, value []byte, versions []uint64) {
	b.Helper()
	var wait sync.WaitGroup
	for g := range 200 {
		wait.Go(func() {
			for n := g; n < len(versions); n += 200 {
				v, err := s.Swap(b.Context(), state.Change{Key: manyKey(n), Version: versions[n], Value: value})
				if err != nil {
					b.Error(err)
					return
				}
				versions[n] = v[0]
			}
		})
	}
	wait.Wait()
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkOpen10000(b *testing.B) {
	for name, value := range map[string][]byte{"small": make([]byte, 200), "realistic": realistic(b)} {
		b.Run(name, func(b *testing.B) {
			f, s := filled(b, value)
			s.Close()
			s, _ = cluster.Open(cluster.Config{Engine: clustertest.New().Client(), Key: testKey, Name: "main"})
			before := heap()
			var err error
			for b.Loop() {
				s.Close()
				if s, err = cluster.Open(cluster.Config{Engine: f.Client(), Key: testKey, Name: "main"}); err != nil {
					b.Fatal(err)
				}
				if err := s.Ready(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(heap()-before)/many, "heap-B/record")
			b.ReportMetric(float64(len(value)), "value-B")
			s.Close()
		})
	}
}

func BenchmarkList10000(b *testing.B) {
	_, s := filled(b, realistic(b))
	for b.Loop() {
		if list, err := s.List("service/"); len(list) != many || err != nil {
			b.Fatal(len(list), err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	_, s := filled(b, realistic(b))
	n := 0
	for b.Loop() {
		if _, version, err := s.Get(manyKey(n % many)); version == 0 || err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkReread is reading everything again, of which nothing changed.
func BenchmarkReread10000(b *testing.B) {
	_, s := filled(b, realistic(b))
	for b.Loop() {
		if err := s.Fresh(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSwap10000(b *testing.B) {
	for name, value := range map[string][]byte{"small": make([]byte, 200), "realistic": realistic(b)} {
		b.Run(name, func(b *testing.B) {
			s := open(b, clustertest.New().Client(), nil)
			versions := make([]uint64, many)
			for b.Loop() {
				swapAll(b, s, value, versions)
			}
			stats := s.Stats()
			b.ReportMetric(float64(stats.Swaps.Made)/float64(stats.Sent), "swaps/transaction")
		})
	}
}

func BenchmarkSwapOne(b *testing.B) {
	s := open(b, clustertest.New().Client(), nil)
	value, version := realistic(b), uint64(0)
	for b.Loop() {
		versions, err := s.Swap(b.Context(), state.Change{Key: "k", Version: version, Value: value})
		if err != nil {
			b.Fatal(err)
		}
		version = versions[0]
	}
}
