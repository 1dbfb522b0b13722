package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"time"
)

// derive hashes the seed with parts to 32 bytes, so that what they name is
// random, but the same in every run, whatever was asked for before.
func (c Config) derive(label string, parts ...[]byte) [32]byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, c.Seed))
	h.Write([]byte(label))
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// source returns the random source of the thing that label and number name.
func (c Config) source(label string, number uint64) *rand.Rand {
	return rand.New(rand.NewChaCha8(c.derive(label, binary.BigEndian.AppendUint64(nil, number))))
}

// between returns a random duration of at least low and under high.
func between(random *rand.Rand, low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(random.Int64N(int64(high-low)))
}

// timeBytes is a moment as an input of derive.
func timeBytes(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano()))
}
