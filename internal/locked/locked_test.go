package locked

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// content returns a copy of what b holds.
func content(b *Buffer) (secret []byte) {
	b.Use(func(s []byte) { secret = bytes.Clone(s) })
	return secret
}

// addressOf returns where b is in memory.
func addressOf(b *Buffer) (address uintptr) {
	b.Use(func(s []byte) { address = uintptr(unsafe.Pointer(&s[0])) })
	return address
}

// TestBuffer writes, reads, copies and wipes.
func TestBuffer(t *testing.T) {
	for _, size := range []int{1, 32, slotSize, slotSize + 1, 4096, 4097, 16 << 10} {
		b := New(size)
		b.Use(func(s []byte) {
			if b.Len() != size || cap(s) != size || !bytes.Equal(s, make([]byte, size)) {
				t.Errorf("a new buffer of %d bytes has %d of %d, or is not zero", size, b.Len(), cap(s))
			}
			s[size-1] = 7
		})
		again, clone := *b, b.Clone()
		if content(&again)[size-1] != 7 || !again.Equal(b) || addressOf(&again) != addressOf(b) {
			t.Error("a copy is other memory")
		}
		b.Wipe()
		if content(&again)[size-1] != 0 {
			t.Error("not zero after Wipe")
		}
		if content(clone)[size-1] != 7 || clone.Equal(b) {
			t.Error("a clone is the same memory")
		}
		if n, err := b.Fill(bytes.NewReader(content(clone)[:size-1])); n != size-1 || err == nil {
			t.Errorf("filled from too few bytes: %d, %v", n, err)
		}
		if n, err := b.Fill(bytes.NewReader(append(content(clone), 8))); n != size || err != nil || !clone.Equal(b) {
			t.Errorf("filled: %d, %v", n, err)
		}
	}
	secret := []byte("a secret")
	b := Copy(secret)
	if string(content(b)) != "a secret" || !bytes.Equal(secret, make([]byte, 8)) {
		t.Errorf("copied %q from %q", content(b), secret)
	}
	for _, empty := range []*Buffer{{}, New(0), New(-1), Copy(nil)} {
		empty.Wipe()
		if empty.Len() != 0 {
			t.Error("an empty buffer holds something")
		}
	}
}

// TestUse: memory in use is not given to the next secret, though nothing refers
// to its Buffer any more.
func TestUse(t *testing.T) {
	New(64).Use(func(mine []byte) {
		copy(mine, "mine")
		collect()
		for range 100 {
			New(64).Use(func(next []byte) {
				if &next[0] == &mine[0] {
					t.Fatal("the next secret got the memory that is in use")
				}
			})
		}
		if !bytes.HasPrefix(mine, []byte("mine")) {
			t.Errorf("the memory in use holds %q", mine)
		}
	})
}

// TestOverwritten looks at memory after the garbage collector has found that
// its Buffer is gone, and only then.
func TestOverwritten(t *testing.T) {
	b := New(64)
	copied := *b
	b.Use(func(s []byte) { copy(s, "left by a caller who forgot Wipe") })
	address := addressOf(b)
	b = nil
	collect()
	if !bytes.HasPrefix(content(&copied), []byte("left by")) {
		t.Error("given back while a copy of the Buffer was in use")
	}
	runtime.KeepAlive(copied)
	copied = Buffer{}
	collect()
	slots.Lock()
	defer slots.Unlock()
	for _, slot := range slots.free {
		if !bytes.Equal(slot, make([]byte, slotSize)) {
			t.Errorf("memory that is free holds %q", slot)
		}
		if uintptr(unsafe.Pointer(&slot[0])) == address {
			return
		}
	}
	t.Error("the memory was not given back")
}

// collect runs the garbage collector and the cleanups.
func collect() {
	for range 3 {
		runtime.GC()
		time.Sleep(20 * time.Millisecond)
	}
}

// TestDo makes buffers within Do, where the runtime treats allocations in a
// special way, and sees that they live and end like others.
func TestDo(t *testing.T) {
	var b *Buffer
	Do(func() {
		b = New(40)
		b.Use(func(s []byte) { copy(s, "made within") })
	})
	collect()
	if !strings.HasPrefix(string(content(b)), "made within") {
		t.Errorf("the buffer holds %q", content(b))
	}
	runtime.KeepAlive(b)
	for range 1000 {
		Do(func() { New(64).Use(func(s []byte) { copy(s, "forgotten") }) })
	}
	b = nil
	collect()
	slots.Lock()
	defer slots.Unlock()
	for _, slot := range slots.free {
		if !bytes.Equal(slot, make([]byte, slotSize)) {
			t.Fatalf("memory that is free holds %q", slot)
		}
	}
}

// TestDoPanics sees that a panic passes through.
func TestDoPanics(t *testing.T) {
	defer func() {
		if recover() != "trouble" {
			t.Error("the panic was lost")
		}
	}()
	Do(func() { panic("trouble") })
}

// TestPrints takes a buffer by all roads into a text.
func TestPrints(t *testing.T) {
	b := Copy([]byte("hunter22"))
	type holder struct {
		B      *Buffer
		V      Buffer
		hidden Buffer
	}
	for _, value := range []any{b, *b, holder{b, *b, *b}, &holder{b, *b, *b}, []*Buffer{b}, map[string]Buffer{"b": *b}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			text := fmt.Sprintf(verb, value)
			for _, shown := range []string{"hunter", fmt.Sprintf("%x", "hunter"), "104 117 110"} {
				if strings.Contains(text, shown) {
					t.Errorf("%s of %T prints %s", verb, value, text)
				}
			}
		}
		if text, err := json.Marshal(value); err == nil {
			t.Errorf("marshals as %s", text)
		}
		if err := gob.NewEncoder(new(bytes.Buffer)).Encode(value); err == nil {
			t.Errorf("%T is encoded", value)
		}
	}
	if got := fmt.Sprint(b, *b); got != "[secret] [secret]" {
		t.Errorf("prints as %q", got)
	}
}

// TestCollectSoon asks often, and gets one collection, soon.
func TestCollectSoon(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	collectAt.Store(0) // of another run, whose clock was the same
	synctest.Test(t, func(*testing.T) {
		for range 1000 {
			CollectSoon()
		}
		time.Sleep(CollectDelay + time.Second)
	})
	want := uint32(0)
	if Erases {
		want = 1
	}
	for runtime.ReadMemStats(&after); after.NumForcedGC < before.NumForcedGC+want; runtime.ReadMemStats(&after) {
		time.Sleep(time.Millisecond) // the collector does not keep the bubble's clock
	}
	if got := after.NumForcedGC - before.NumForcedGC; got != want {
		t.Errorf("%d collections, want %d", got, want)
	}
}
