package state_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// realistic is a record of a service with two periods of nine points.
func realistic() state.Service {
	s := state.Service{Owner: "m1", Term: 1}
	for period := range uint64(2) {
		s.Ceilings = append(s.Ceilings, state.Ceiling{Period: 20_000 + period, Minutes: 1440, Counter: 1 << 40})
		made := state.Made{Period: 20_000 + period, Minutes: 1440, Revision: 1 << 40, Contents: state.Bytes32{1}, Signer: state.Bytes32{2}, Built: time.Unix(1_800_000_000, 0), Refresh: time.Unix(1_800_005_000, 0)}
		for range 9 {
			s.Points = append(s.Points, state.Published{Instance: state.Address{3}, AuthKey: state.Bytes32{4}, EncKey: state.Bytes32{5}, Relay: fmt.Sprintf("%040X", 6)})
		}
		s.Made = append(s.Made, made)
	}
	return s
}

func numbered(n int) descriptor.Address {
	return descriptor.Address{byte(n), byte(n >> 8), byte(n >> 16)}
}

// writeAll stores 10,000 services from 100 goroutines.
func writeAll(b *testing.B, d *state.DB, s state.Service, versions []uint64) {
	var wait sync.WaitGroup
	for g := range 100 {
		wait.Go(func() {
			for n := g; n < len(versions); n += 100 {
				version, err := d.SwapService(b.Context(), numbered(n), versions[n], s)
				if err != nil {
					b.Error(err)
					return
				}
				versions[n] = version
			}
		})
	}
	wait.Wait()
}

func BenchmarkWrite10000By100(b *testing.B) {
	d, err := state.Open(b.TempDir(), state.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	s, versions := realistic(), make([]uint64, 10_000)
	for b.Loop() {
		writeAll(b, d, s, versions)
	}
}

func BenchmarkRead10000(b *testing.B) {
	dir := b.TempDir()
	d, err := state.Open(dir, state.Options{})
	if err != nil {
		b.Fatal(err)
	}
	writeAll(b, d, realistic(), make([]uint64, 10_000))
	b.Run("services", func(b *testing.B) {
		for b.Loop() {
			if all, err := d.Services(); len(all) != 10_000 || err != nil {
				b.Fatal(len(all), err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if all, err := d.List("service/"); len(all) != 10_000 || err != nil {
				b.Fatal(len(all), err)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			if _, version, err := d.Get(state.ServiceKey(numbered(77))); version == 0 || err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			d, err := state.Open(dir, state.Options{})
			if err != nil {
				b.Fatal(err)
			}
			_ = d.Close()
		}
	})
}

// BenchmarkSwapOne is one service's reservation, with and without syncing.
func BenchmarkSwapOne(b *testing.B) {
	for _, noSync := range []bool{false, true} {
		b.Run(fmt.Sprintf("nosync=%v", noSync), func(b *testing.B) {
			d, err := state.Open(b.TempDir(), state.Options{NoSync: noSync})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			s, version := realistic(), uint64(0)
			for b.Loop() {
				if version, err = d.SwapService(b.Context(), numbered(1), version, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
