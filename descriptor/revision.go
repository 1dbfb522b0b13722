package descriptor

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// MaxRevisionSeconds is the highest input of the order-preserving encryption;
// about three days, while a descriptor lives for two.
const MaxRevisionSeconds = 262144

// RevisionCounter encrypts the time since runStart, the beginning of the
// shared-random run that the descriptor belongs to, as tor does
// (rend-spec-v3, appendix F.2): later moments give greater counters, and the
// counter does not tell the moment. The clock's value now must lie between
// runStart and MaxRevisionSeconds later. Who asks again and again for the same
// run takes a Sequence.
func (k RevisionKey) RevisionCounter(runStart, now time.Time) (uint64, error) {
	return k.Sequence(runStart).At(now)
}

// RevisionSequence gives the revision counters of one key and one
// shared-random run, and goes on from where it last was instead of from the
// run's start. It is safe for concurrent use.
type RevisionSequence struct {
	key      RevisionKey
	runStart time.Time

	mu     sync.Mutex
	blocks int64  // of the key stream that sum covers
	sum    uint64 // of the words of those blocks, one added to each
}

// Sequence begins the sequence of the run that began at runStart.
func (k RevisionKey) Sequence(runStart time.Time) *RevisionSequence {
	return &RevisionSequence{key: k, runStart: runStart}
}

// At returns the result of RevisionKey.RevisionCounter.
func (s *RevisionSequence) At(now time.Time) (uint64, error) {
	n, err := s.encrypt(now.Unix() - s.runStart.Unix() + 1)
	if err != nil {
		return 0, fmt.Errorf("computing the revision counter of %s for a shared-random run from %s: %w",
			now.UTC().Format(time.RFC3339), s.runStart.UTC().Format(time.RFC3339), err)
	}
	return n, nil
}

// RevisionTime is the inverse of RevisionCounter: it returns the last second of the
// shared-random run from runStart whose counter is not above the given one. exact says that
// it has just that counter. A counter that was raised above its predecessor, because the
// clock was behind it, lies between two seconds and tells no moment; one below the run's
// first or above its last is an error. It takes less than a millisecond.
func (k RevisionKey) RevisionTime(runStart time.Time, counter uint64) (at time.Time, exact bool, err error) {
	block, err := aes.NewCipher(k.key()[:])
	if err != nil {
		return time.Time{}, false, err
	}
	stream := cipher.NewCTR(block, make([]byte, aes.BlockSize))
	buf := make([]byte, maxSumBytes)
	var sum uint64
	for n := int64(0); n < MaxRevisionSeconds; {
		clear(buf)
		stream.XORKeyStream(buf, buf)
		for b := buf; len(b) >= 2; b = b[2:] {
			next := sum + uint64(binary.LittleEndian.Uint16(b)) + 1
			if next > counter {
				if n == 0 {
					return time.Time{}, false, fmt.Errorf("%d is below any revision counter of the shared-random run", counter)
				}
				return time.Unix(runStart.Unix()+n-1, 0), sum == counter, nil
			}
			sum, n = next, n+1
		}
	}
	if sum < counter {
		return time.Time{}, false, fmt.Errorf("%d is above any revision counter of the shared-random run", counter)
	}
	return time.Unix(runStart.Unix()+MaxRevisionSeconds-1, 0), true, nil
}

// NearestRevisionTime returns the moment nearest to at that has a revision counter in the
// shared-random run from runStart: a clock far off the consensus must not stop a service.
func NearestRevisionTime(runStart, at time.Time) time.Time {
	last := runStart.Add((MaxRevisionSeconds - 1) * time.Second)
	switch {
	case at.Before(runStart):
		return runStart
	case at.After(last):
		return last
	}
	return at
}

// wordsPerBlock is how many 16-bit words one AES block of key stream holds.
const wordsPerBlock = aes.BlockSize / 2

// encrypt sums the first n little-endian 16-bit words of AES-256-CTR's key
// stream, one added to each.
func (s *RevisionSequence) encrypt(n int64) (uint64, error) {
	if n < 1 || n > MaxRevisionSeconds {
		return 0, fmt.Errorf("%d seconds since the run's start, want 1 to %d: is the clock right?", n, MaxRevisionSeconds)
	}
	block, err := aes.NewCipher(s.key.key()[:])
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blocks*wordsPerBlock > n { // the clock went back
		s.blocks, s.sum = 0, 0
	}
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], uint64(s.blocks))
	stream := cipher.NewCTR(block, iv[:])
	whole, rest := n/wordsPerBlock-s.blocks, n%wordsPerBlock
	buf := make([]byte, min(maxSumBytes, max(whole, 1)*aes.BlockSize))
	s.sum += sumStream(stream, whole*aes.BlockSize, buf) + uint64(whole*wordsPerBlock)
	s.blocks += whole
	return s.sum + sumStream(stream, 2*rest, buf) + uint64(rest), nil
}

// maxSumBytes is how many bytes are added up at once, few enough that no lane
// of sumStream overflows.
const maxSumBytes = 8192

// sumStream adds up the next n bytes of the stream as 16-bit words, four of
// them at a time in the lanes of two sums. It overwrites buf.
func sumStream(stream cipher.Stream, n int64, buf []byte) (sum uint64) {
	const lanes = 0x0000ffff0000ffff
	for ; n > 0; n -= int64(len(buf)) {
		clear(buf)
		part := buf[:min(n, int64(len(buf)))]
		stream.XORKeyStream(part, part)
		var even, odd uint64
		for b := buf; len(b) >= 8; b = b[8:] {
			word := binary.LittleEndian.Uint64(b)
			even += word & lanes
			odd += word >> 16 & lanes
		}
		sum += even&0xffffffff + even>>32 + odd&0xffffffff + odd>>32
	}
	return sum
}
