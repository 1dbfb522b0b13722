package descriptor

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"time"
)

// MaxRevisionSeconds is the highest input of the order-preserving encryption;
// about three days, while a descriptor lives for two.
const MaxRevisionSeconds = 262144

// RevisionCounter encrypts the time since runStart, the beginning of the
// shared-random run that the descriptor belongs to, as tor does
// (rend-spec-v3, appendix F.2): later moments give greater counters, and the
// counter does not tell the moment. The clock's value now must lie between
// runStart and MaxRevisionSeconds later.
func (k RevisionKey) RevisionCounter(runStart, now time.Time) (uint64, error) {
	seconds := now.Unix() - runStart.Unix() + 1
	n, err := k.encryptOrder(seconds)
	if err != nil {
		return 0, fmt.Errorf("computing the revision counter of %s for a shared-random run from %s: %w",
			now.UTC().Format(time.RFC3339), runStart.UTC().Format(time.RFC3339), err)
	}
	return n, nil
}

// encryptOrder sums the first n little-endian 16-bit words of AES-256-CTR's
// key stream, one added to each, in one pass over the stream.
func (k RevisionKey) encryptOrder(n int64) (uint64, error) {
	if n < 1 || n > MaxRevisionSeconds {
		return 0, fmt.Errorf("%d seconds since the run's start, want 1 to %d: is the clock right?", n, MaxRevisionSeconds)
	}
	block, err := aes.NewCipher(k.key[:])
	if err != nil {
		return 0, err
	}
	stream := cipher.NewCTR(block, make([]byte, aes.BlockSize))
	var buf [8192]byte
	sum := uint64(n)
	for left := 2 * n; left > 0; left -= int64(len(buf)) {
		chunk := buf[:min(left, int64(len(buf)))]
		clear(chunk)
		stream.XORKeyStream(chunk, chunk)
		for i := 0; i+2 <= len(chunk); i += 2 {
			sum += uint64(binary.LittleEndian.Uint16(chunk[i:]))
		}
	}
	return sum, nil
}
