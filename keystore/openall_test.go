package keystore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// TestOpenAll opens keys on disk and sealed ones, and one that is missing, which fails
// by itself.
func TestOpenAll(t *testing.T) {
	dir := t.TempDir()
	refs := make([]string, 40)
	for n := range refs {
		refs[n] = filepath.Join(dir, fmt.Sprint(n))
		switch {
		case n == 13:
		case n%2 == 0:
			sealFile(t, refs[n], newKey(t).Identity())
			refs[n] = "pkcs11:token=t;object=seal?module-path=/none.so&x-sealed=" + refs[n]
		default:
			if err := newKey(t).WriteTor(refs[n]); err != nil {
				t.Fatal(err)
			}
		}
	}
	goroutines := runtime.NumGoroutine()
	told := 0
	opened := OpenAll(t.Context(), refs, func(done int) {
		if told++; done != told {
			t.Errorf("%d are done after %d", done, told-1)
		}
	})
	if told != len(refs) || len(opened) != len(refs) {
		t.Errorf("%d opened, told %d times", len(opened), told)
	}
	for n, o := range opened {
		if n == 13 {
			if !errors.Is(o.Err, fs.ErrNotExist) {
				t.Errorf("a missing key: %v", o.Err)
			}
			continue
		}
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		single, err := Open(refs[n])
		if err != nil || single.Address() != o.Custodian.Address() || single.Form() != o.Custodian.Form() {
			t.Errorf("%s: opened as %v, by itself %v, %v", refs[n], o.Custodian, single, err)
		}
		if err := errors.Join(single.Close(), o.Custodian.Close()); err != nil {
			t.Error(err)
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines after opening, %d before", n, goroutines)
	}
}

func TestOpenAllStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	refs := slices.Repeat([]string{filepath.Join(t.TempDir(), "none")}, 1000)
	opened := OpenAll(ctx, refs, func(done int) {
		if done == 10 {
			cancel()
		}
	})
	if err := opened[len(refs)-1].Err; !errors.Is(err, context.Canceled) {
		t.Errorf("the last: %v", err)
	}
	if tried := slices.IndexFunc(opened, func(o Opened) bool { return errors.Is(o.Err, fs.ErrNotExist) }); tried < 0 {
		t.Error("none was tried")
	}
}
