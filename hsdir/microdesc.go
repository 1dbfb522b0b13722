package hsdir

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
)

var (
	onionKeyKeyword = []byte("onion-key")
	idKeyword       = []byte("id")
)

// microdesc is what the ring needs of a microdescriptor.
type microdesc struct {
	digest  [32]byte // SHA-256 of its text
	ed25519 [32]byte // zero if it has no Ed25519 identity
	bad     bool     // tor would not use it
}

// microdescKey stands for the text of a microdescriptor in the memory of a
// Parser. It is a keyed hash whose key never leaves the process, so nobody can
// make two texts that share one, and it costs a tenth of a SHA-256.
type microdescKey [2]uint64

// microdescs remembers the microdescriptors of one document, so that the same
// text in the next one is neither hashed nor read again.
type microdescs struct {
	seeds [2]maphash.Seed
	known map[microdescKey]microdesc
}

func newMicrodescs() *microdescs {
	return &microdescs{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

func (m *microdescs) key(text []byte) microdescKey {
	return microdescKey{maphash.Bytes(m.seeds[0], text), maphash.Bytes(m.seeds[1], text)}
}

// parse reads concatenated microdescriptors (dir-spec, section 3.3) and
// returns them by digest. It forgets those that are not in text any more. The
// number of those that tor would refuse and the first reason come with it:
// one bad microdescriptor takes one relay out of the ring, not all.
func (m *microdescs) parse(text []byte) (byDigest map[[32]byte]microdesc, bad int, reason error, err error) {
	if len(text) > maxMicrodescs {
		err = &ParseError{documentMicrodescs, 0, fmt.Errorf("%d bytes, want at most %d", len(text), maxMicrodescs)}
		return nil, 0, nil, err
	}
	known := make(map[microdescKey]microdesc, len(m.known))
	byDigest = make(map[[32]byte]microdesc, len(m.known))
	for at := nextMicrodesc(text, 0); at < len(text); {
		end := endOfMicrodesc(text, at)
		key := m.key(text[at:end])
		md, ok := m.known[key]
		if !ok {
			md = readMicrodesc(text[at:end])
		}
		if md.bad {
			if bad++; reason == nil {
				_, why := readIdentity(text[at:end])
				reason = &ParseError{documentMicrodescs, lineNumber(text, at), why}
			}
		}
		if known[key] = md; len(known) > maxRelays {
			err = &ParseError{documentMicrodescs, lineNumber(text, at), fmt.Errorf("more than %d", maxRelays)}
			return nil, 0, nil, err
		}
		byDigest[md.digest] = md
		at = nextMicrodesc(text, end)
	}
	m.known = known
	return byDigest, bad, reason, nil
}

// readMicrodesc digests and reads one microdescriptor. A last newline that was
// lost on the way, as control-port libraries do, is put back for the digest.
func readMicrodesc(body []byte) microdesc {
	var md microdesc
	if n := len(body); n > 0 && body[n-1] != '\n' {
		body = append(body[:n:n], '\n')
	}
	md.digest = sha256.Sum256(body)
	identity, err := readIdentity(body)
	md.ed25519, md.bad = identity, err != nil
	return md
}

// readIdentity finds the Ed25519 identity; zero means that there is none.
func readIdentity(body []byte) (identity [32]byte, err error) {
	l := lines{doc: body}
	found := false
	for line, ok := l.scan(); ok; line, ok = l.scan() {
		if !bytes.HasPrefix(line, idKeyword) {
			continue
		}
		keyword, rest := word(line)
		kind, rest := word(rest)
		if !bytes.Equal(keyword, idKeyword) || string(kind) != "ed25519" {
			continue
		}
		if found {
			return [32]byte{}, errors.New("a microdescriptor with two Ed25519 identities")
		}
		found = true
		key, _ := word(rest)
		if err := decodeBase64(identity[:], key); err != nil {
			return [32]byte{}, fmt.Errorf("Ed25519 identity %s: %w", quote(key), err)
		}
	}
	return identity, nil
}

// nextMicrodesc returns the offset of the first microdescriptor at or after
// the line that begins at from, or the length of text. Annotations, which a
// cache file of tor has between microdescriptors, are not part of any.
func nextMicrodesc(text []byte, from int) int {
	for at := from; at < len(text); at = endOfLine(text, at) {
		if bytes.HasPrefix(text[at:], onionKeyKeyword) {
			return at
		}
	}
	return len(text)
}

// endOfMicrodesc returns where the microdescriptor that begins at start ends:
// before the next one or the annotations of the next one.
func endOfMicrodesc(text []byte, start int) int {
	at := endOfLine(text, start)
	for ; at < len(text); at = endOfLine(text, at) {
		if text[at] == '@' || text[at] == 'o' && bytes.HasPrefix(text[at:], onionKeyKeyword) {
			break
		}
	}
	return at
}

func endOfLine(text []byte, at int) int {
	end := bytes.IndexByte(text[at:], '\n')
	if end < 0 {
		return len(text)
	}
	return at + end + 1
}
