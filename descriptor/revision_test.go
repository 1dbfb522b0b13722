package descriptor

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type opeVector struct {
	Key     hexBytes `json:"key"`
	LiveKey hexBytes `json:"revision_counter_key"`
	Blinded hexBytes `json:"blinded_secret_key"`
	Public  hexBytes `json:"blinded_public_key"`
	Input   int64    `json:"input"`
	Output  uint64   `json:"output"`
}

func TestRevisionVectors(t *testing.T) {
	file := loadJSON[struct {
		Vectors    []opeVector `json:"vectors"`
		Live       []opeVector `json:"live"`
		OutOfRange []opeVector `json:"out_of_range"`
	}](t, "ope.json")
	enough(t, "revision counters", len(file.Vectors), 58)
	enough(t, "published revision counters", len(file.Live), 192)
	enough(t, "moments out of range", len(file.OutOfRange), 5)
	start := time.Unix(1_700_000_000, 0)
	at := func(input int64) time.Time { return start.Add(time.Duration(input-1) * time.Second) }
	for _, v := range file.Vectors {
		k, err := NewRevisionKey(v.Key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.RevisionCounter(start, at(v.Input)); err != nil || got != v.Output {
			t.Errorf("%d: %d, %v, want %d", v.Input, got, err, v.Output)
		}
	}
	for _, v := range file.Live {
		b := blindedFromExpanded(t, v.Blinded)
		if b.Public() != BlindedPublicKey(v.Public.key()) || [32]byte(b.RevisionKey().Bytes()) != v.LiveKey.key() {
			t.Errorf("other keys from %x", v.Public)
		}
		if got, err := b.RevisionKey().RevisionCounter(start, at(v.Input)); err != nil || got != v.Output {
			t.Errorf("%d: %d, %v, want %d", v.Input, got, err, v.Output)
		}
	}
	for _, v := range file.OutOfRange {
		if got, err := (RevisionKey{}).RevisionCounter(start, start.Add(time.Duration(v.Input-1)*time.Second)); err == nil {
			t.Errorf("%d: %d, want an error", v.Input, got)
		}
	}
}

// TestRevisionSequence compares a sequence with the sum by the book, forwards
// and with a clock that steps back.
func TestRevisionSequence(t *testing.T) {
	k := newRevisionKey(append([]byte{4, 2}, make([]byte, 30)...))
	start := time.Unix(1_700_000_000, 0)
	sequence := k.Sequence(start)
	random := rand.New(rand.NewPCG(1, 2))
	last, seconds := uint64(0), int64(0)
	for range 2000 {
		seconds += random.Int64N(40)
		got, err := sequence.At(start.Add(time.Duration(seconds) * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		want, err := k.RevisionCounter(start, start.Add(time.Duration(seconds)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if got != want || got < last {
			t.Fatalf("after %d seconds: %d, want %d, after %d", seconds, got, want, last)
		}
		last = got
	}
	back, err := sequence.At(start.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := k.RevisionCounter(start, start.Add(time.Second)); back != want {
		t.Errorf("one second in: %d, want %d", back, want)
	}
	if _, err := sequence.At(start.Add(-time.Second)); err == nil {
		t.Error("a moment before the run has a counter")
	}
}

// TestRevisionTime: a counter tells the second that it was made in, and one between two
// seconds the one before.
func TestRevisionTime(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	rapid.Check(t, func(t *rapid.T) {
		k := newRevisionKey(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		second := rapid.OneOf(rapid.Int64Range(0, MaxRevisionSeconds-1), rapid.SampledFrom([]int64{0, 1, MaxRevisionSeconds - 2, MaxRevisionSeconds - 1})).Draw(t, "second")
		want := start.Add(time.Duration(second) * time.Second)
		counter, err := k.RevisionCounter(start, want)
		if err != nil {
			t.Fatal(err)
		}
		if got, exact, err := k.RevisionTime(start, counter); err != nil || !exact || !got.Equal(want) {
			t.Fatalf("second %d: %s, %t, %v, want %s", second, got, exact, err, want)
		}
		next, err := k.RevisionCounter(start, want.Add(time.Second))
		got, exact, gotErr := k.RevisionTime(start, counter+1)
		switch {
		case err != nil: // it was the last second
			if gotErr == nil {
				t.Fatalf("above the last: %s", got)
			}
		case next == counter+1:
			if gotErr != nil || !exact || !got.Equal(want.Add(time.Second)) {
				t.Fatalf("after second %d: %s, %t, %v", second, got, exact, gotErr)
			}
		case gotErr != nil || exact || !got.Equal(want):
			t.Fatalf("between second %d and the next: %s, %t, %v", second, got, exact, gotErr)
		}
		first, err := k.RevisionCounter(start, start)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := k.RevisionTime(start, first-1); err == nil {
			t.Fatalf("below the first: %s", got)
		}
	})
}

func BenchmarkRevisionTime(b *testing.B) {
	k := newRevisionKey(make([]byte, 32))
	start := time.Unix(1_700_000_000, 0)
	counter, err := k.RevisionCounter(start, start.Add((MaxRevisionSeconds-1)*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, exact, err := k.RevisionTime(start, counter); err != nil || !exact {
			b.Fatal(err)
		}
	}
}
