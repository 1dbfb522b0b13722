package descriptor

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
)

// The base64 lines of an object (dir-spec, section 1.2). A descriptor is written
// in base64 twice over, which the standard library's codec would take a fifth of
// the time for: whole lines go by tables.
const (
	lineWidth = 64                // characters in each line but the last
	lineBytes = lineWidth / 4 * 3 // that they stand for
	lineSteps = 8                 // in which a line is done
	stepWidth = lineWidth / lineSteps
	stepBytes = lineBytes / lineSteps
)

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// charPairs holds the two characters that twelve bits are written as, the first
// one in the low byte.
var charPairs = func() (pairs [1 << 12]uint16) {
	for i := range pairs {
		pairs[i] = uint16(base64Alphabet[i>>6]) | uint16(base64Alphabet[i&63])<<8
	}
	return pairs
}()

// appendLines writes raw in lines, each with its newline.
func appendLines(b, raw []byte) []byte {
	n := len(b)
	b = slices.Grow(b, linesLength(len(raw)))[:n+linesLength(len(raw))]
	for len(raw) >= lineBytes+2 { // a step reads two bytes more than it takes
		encodeLine((*[lineWidth]byte)(b[n:]), (*[lineBytes + 2]byte)(raw))
		b[n+lineWidth] = '\n'
		n, raw = n+lineWidth+1, raw[lineBytes:]
	}
	for ; len(raw) > 0; raw = raw[min(lineBytes, len(raw)):] {
		line := raw[:min(lineBytes, len(raw))]
		base64.StdEncoding.Encode(b[n:], line)
		n += base64.StdEncoding.EncodedLen(len(line))
		b[n] = '\n'
		n++
	}
	return b
}

// encodeLine writes lineBytes bytes as a whole line.
func encodeLine(line *[lineWidth]byte, raw *[lineBytes + 2]byte) {
	for i := range lineSteps {
		bits := binary.BigEndian.Uint64(raw[i*stepBytes:])
		binary.LittleEndian.PutUint64(line[i*stepWidth:],
			uint64(charPairs[bits>>52])|uint64(charPairs[bits>>40&0xfff])<<16|
				uint64(charPairs[bits>>28&0xfff])<<32|uint64(charPairs[bits>>16&0xfff])<<48)
	}
}

// linesLength is how many bytes the lines of n bytes take.
func linesLength(n int) int {
	encoded := base64.StdEncoding.EncodedLen(n)
	return encoded + (encoded+lineWidth-1)/lineWidth
}
