package descriptor

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
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

// noBits is above the bits of a group.
const noBits = 1 << 24

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// quadBits holds the bits of each character of a group of four, by its place in
// the group: 24 bits for the whole. What
// is no character has noBits instead.
var quadBits = func() (bits [4][256]uint32) {
	for place := range bits {
		for c := range bits[place] {
			bits[place][c] = noBits
		}
		for i := range len(base64Alphabet) {
			bits[place][base64Alphabet[i]] = uint32(i) << (18 - 6*place)
		}
	}
	return bits
}()

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

var errBase64 = errors.New("malformed base64")

// decodeBase64 decodes an object's lines. All but the last hold a multiple of
// four characters; the padding at the end may be left out.
func decodeBase64(lines []byte) ([]byte, error) {
	// A step of decodeLine writes two bytes more than it decodes.
	out, n := make([]byte, base64Raw.DecodedLen(len(lines))+2), 0
	for len(lines) > lineWidth && lines[lineWidth] == '\n' {
		if !decodeLine((*[lineBytes + 2]byte)(out[n:]), (*[lineWidth]byte)(lines)) {
			break // not of the usual kind, but possibly right
		}
		n, lines = n+lineBytes, lines[lineWidth+1:]
	}
	rest, err := decodeOddLines(out[n:], lines)
	return out[:n+rest], err
}

// decodeOddLines decodes lines of any length to out, and returns how many bytes
// they are.
func decodeOddLines(out, lines []byte) (n int, err error) {
	if bytes.IndexByte(lines, '\r') >= 0 { // the decoder would skip it
		return 0, errBase64
	}
	for len(lines) > 0 {
		line, rest, _ := bytes.Cut(lines, []byte{'\n'})
		if len(rest) == 0 {
			line = trimPadding(line)
		} else if len(line)%4 != 0 {
			return 0, errBase64
		}
		m, err := base64Raw.Decode(out[n:], line)
		if err != nil {
			return 0, errBase64
		}
		n, lines = n+m, rest
	}
	return n, nil
}

// decodeLine decodes a whole line, and reports whether all of it is base64.
func decodeLine(out *[lineBytes + 2]byte, line *[lineWidth]byte) bool {
	var seen uint64
	for i := range lineSteps {
		high, low := decodeQuad(line[i*stepWidth:]), decodeQuad(line[i*stepWidth+4:])
		seen |= high | low
		binary.BigEndian.PutUint64(out[i*stepBytes:], high<<40|low<<16)
	}
	return seen < noBits
}

// decodeQuad returns the 24 bits of four characters, or noBits and more.
func decodeQuad(c []byte) uint64 {
	return uint64(quadBits[0][c[0]] | quadBits[1][c[1]] | quadBits[2][c[2]] | quadBits[3][c[3]])
}
