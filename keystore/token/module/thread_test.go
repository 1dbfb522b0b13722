//go:build cgo

package module

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"onionbalancer/keystore/token"
)

// TestOneThread looks at the threads on which a module is called.
func TestOneThread(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	f.fail = func(string, int) error {
		seen[unix.Gettid()] = true
		return nil
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := opened.Sign(key1("ed"), nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := opened.Close(); err != nil {
		t.Error(err)
	}
	opened.module.Close()
	if len(seen) != 1 || f.calls["C_Sign"] != 50 || f.calls["C_Finalize"] != 1 {
		t.Errorf("%d threads, calls %v", len(seen), f.calls)
	}
}

// TestPanic: what panics does so where it was called from, and does no harm to
// what is called next.
func TestPanic(t *testing.T) {
	f := newFake()
	opened, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	f.fail = func(call string, n int) error {
		if call == "C_Sign" && n == 1 {
			panic("the module")
		}
		return nil
	}
	func() {
		defer func() {
			if recover() != "the module" {
				t.Error("no panic")
			}
		}()
		_, _ = opened.Sign(token.Object{Label: "ed"}, nil)
	}()
	f.hangUp()
	if _, err := opened.Sign(key1("ed"), nil); err != nil {
		t.Error(err)
	}
}
