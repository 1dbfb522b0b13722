package clustertest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"

	"onionbalancer/descriptor"
)

// Readable returns which of the addresses and names somebody can read in content: an address
// as text or as bytes, also in hexadecimal or base64, half of it at least. Names are to be
// long enough to be found nowhere by chance.
func Readable(content []byte, addresses []descriptor.Address, names []string) (found []string) {
	content = withoutZeros(content)
	exact, folded := newNeedles(), newNeedles()
	for _, a := range addresses {
		key := a[:]
		folded.add([]byte(a.Label()[:28]), a.Label()+" as text")
		folded.add([]byte(hex.EncodeToString(key)[:32]), a.Label()+" as hexadecimal")
		exact.add(key[:16], a.Label()+" as bytes")
		exact.add([]byte(base64.StdEncoding.EncodeToString(key)[:20]), a.Label()+" as base64")
		exact.add([]byte(base64.URLEncoding.EncodeToString(key)[:20]), a.Label()+" as base64 for URLs")
	}
	found = append(exact.in(content), folded.in(bytes.ToLower(content))...)
	for _, name := range names {
		for form, needle := range map[string]string{"text": name, "base64": base64.StdEncoding.EncodeToString([]byte(name))[:len(name)*4/3]} {
			if bytes.Contains(content, []byte(needle)) {
				found = append(found, fmt.Sprintf("%s as %s", name, form))
			}
		}
	}
	return found
}

// needles are looked for all at once: one after the other, those of thousands of addresses
// would take hours in what an engine keeps of them.
type needles struct {
	begin []uint64 // a bit for each three bytes that one begins with
	by    map[[8]byte][]needle
}

type needle struct {
	text []byte
	what string
}

func newNeedles() needles {
	return needles{make([]uint64, 1<<24/64), map[[8]byte][]needle{}}
}

func first3(b []byte) (word, bit uint) {
	n := uint(b[0])<<16 | uint(b[1])<<8 | uint(b[2])
	return n / 64, n % 64
}

// add has a text of eight bytes or more looked for.
func (n needles) add(text []byte, what string) {
	word, bit := first3(text)
	n.begin[word] |= 1 << bit
	n.by[[8]byte(text)] = append(n.by[[8]byte(text)], needle{text, what})
}

// in returns what of them content has.
func (n needles) in(content []byte) (found []string) {
	for ; len(content) >= 8; content = content[1:] {
		word, bit := first3(content)
		if n.begin[word]>>bit&1 == 0 {
			continue
		}
		for _, each := range n.by[[8]byte(content)] {
			if bytes.HasPrefix(content, each.text) {
				found = append(found, each.what)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// withoutZeros leaves out blocks of zeros, of which the files of an engine are full.
func withoutZeros(content []byte) (rest []byte) {
	var zeros [512]byte
	for block := range slices.Chunk(content, len(zeros)) {
		if !bytes.Equal(block, zeros[:len(block)]) {
			rest = append(rest, block...)
		}
	}
	return rest
}
