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

// microdesc has the fields of a microdescriptor that the ring needs.
type microdesc struct {
	digest  [32]byte // SHA-256 of its text
	ed25519 [32]byte // zero if it has no Ed25519 identity
	bad     bool     // tor would not use it
	seen    uint32   // number of the last document that had it
}

// textKey stands for a text in the cache of a Parser. It is a keyed hash
// whose key never leaves the process, so collisions cannot be constructed,
// and it costs a fraction of a SHA-256.
type textKey [2]uint64

// microdescs caches the microdescriptors of earlier documents, so that the
// same text in the next one is neither hashed nor parsed again.
type microdescs struct {
	seeds    [2]maphash.Seed
	document uint32 // number of the latest document
	entries  []microdesc
	byText   map[textKey]int32
	byDigest map[[32]byte]int32
}

func newMicrodescs() *microdescs {
	return &microdescs{
		seeds:    [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		byText:   make(map[textKey]int32),
		byDigest: make(map[[32]byte]int32),
	}
}

func (m *microdescs) key(text []byte) textKey {
	return textKey{maphash.Bytes(m.seeds[0], text), maphash.Bytes(m.seeds[1], text)}
}

// parse reads concatenated microdescriptors (dir-spec, section 3.3)
// for find. The number of those that tor would refuse and the first
// reason are not an error: one bad microdescriptor takes one relay out of the
// ring, not all.
func (m *microdescs) parse(text []byte) (bad int, reason, err error) {
	if len(text) > maxMicrodescs {
		return 0, nil, &ParseError{documentMicrodescs, 0, fmt.Errorf("%d bytes, want at most %d", len(text), maxMicrodescs)}
	}
	m.document++
	live := 0
	defer func() { m.forget(live) }()
	for at := nextMicrodesc(text, 0); at < len(text); {
		if live++; live > maxRelays {
			return 0, nil, &ParseError{documentMicrodescs, lineNumber(text, at), fmt.Errorf("more than %d", maxRelays)}
		}
		end := endOfMicrodesc(text, at)
		body := wholeLines(text[at:end])
		if md := m.take(body); md.bad {
			if bad++; reason == nil {
				_, why := readIdentity(body)
				reason = &ParseError{documentMicrodescs, lineNumber(text, at), why}
			}
		}
		at = nextMicrodesc(text, end)
	}
	return bad, reason, nil
}

// take returns the entry for a microdescriptor, parsed if it is not cached.
func (m *microdescs) take(body []byte) *microdesc {
	key := m.key(body)
	at, ok := m.byText[key]
	if !ok {
		at = int32(len(m.entries))
		identity, err := readIdentity(body)
		m.entries = append(m.entries, microdesc{digest: sha256.Sum256(body), ed25519: identity, bad: err != nil})
		m.byText[key] = at
		m.byDigest[m.entries[at].digest] = at
	}
	m.entries[at].seen = m.document
	return &m.entries[at]
}

// find returns the microdescriptor with the given digest, if the latest
// document had it.
func (m *microdescs) find(digest [32]byte) (*microdesc, bool) {
	at, ok := m.byDigest[digest]
	if !ok || m.entries[at].seen != m.document {
		return nil, false
	}
	return &m.entries[at], true
}

// forget drops stale entries, which the latest document did not have, once they
// are as many as the live ones.
func (m *microdescs) forget(live int) {
	const slack = 1000
	if len(m.entries) <= 2*live+slack {
		return
	}
	entries := make([]microdesc, 0, live)
	moved := make(map[int32]int32, live)
	m.byDigest = make(map[[32]byte]int32, live)
	for i, md := range m.entries {
		if md.seen == m.document {
			at := int32(len(entries))
			entries, moved[int32(i)], m.byDigest[md.digest] = append(entries, md), at, at
		}
	}
	byText := make(map[textKey]int32, live)
	for key, i := range m.byText {
		if at, ok := moved[i]; ok {
			byText[key] = at
		}
	}
	m.entries, m.byText = entries, byText
}

// wholeLines restores a last newline that was lost in transit, as in libraries
// for the control port: it is part of the digested text.
func wholeLines(body []byte) []byte {
	if n := len(body); n > 0 && body[n-1] != '\n' {
		return append(body[:n:n], '\n')
	}
	return body
}

// readIdentity finds the Ed25519 identity; zero means there is none.
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
