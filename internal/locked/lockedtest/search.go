package lockedtest

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Needles are secrets to be looked for in the memory of a process, eight bytes at
// a time, so that half of a secret is found too. They are kept masked, so that
// the searching process does not hold what it looks for. They can be sent as JSON.
type Needles struct {
	Mask  uint64
	Parts []Needle
}

// Needle is eight bytes of a secret.
type Needle struct {
	Name   string // the secret's, and which bytes
	Masked uint64
}

// NewNeedles makes needles of the secrets, by name.
func NewNeedles(secrets map[string][]byte) Needles {
	var mask [8]byte
	rand.Read(mask[:])
	n := Needles{Mask: binary.LittleEndian.Uint64(mask[:])}
	for name, secret := range secrets {
		for i := 0; i+8 <= len(secret); i += 8 {
			part := Needle{fmt.Sprintf("%s[%d:%d]", name, i, i+8), binary.LittleEndian.Uint64(secret[i:]) ^ n.Mask}
			n.Parts = append(n.Parts, part)
		}
	}
	return n
}

// Search returns the names of the needles that are in the memory of a process,
// "self" or its number, with where they are.
func (n Needles) Search(process string) (found map[string]string, err error) {
	maps, err := os.ReadFile("/proc/" + process + "/maps")
	if err != nil {
		return nil, err
	}
	memory, err := os.Open("/proc/" + process + "/mem")
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	s := searcher{mask: n.Mask, names: map[uint64][]string{}, found: map[string]string{}}
	for _, part := range n.Parts {
		s.likely[uint16(part.Masked)] = true
		s.names[part.Masked] = append(s.names[part.Masked], part.Name)
	}
	var searched int64
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil {
			return nil, fmt.Errorf("reading %q: %w", line, err)
		}
		// The kernel's own cannot be read; the race detector's are huge.
		if mode[0] != 'r' || strings.Contains(line, "[v") || to-from > 4<<30 {
			continue
		}
		read, err := s.mapping(io.NewSectionReader(memory, int64(from), int64(to-from)), strings.TrimSpace(line))
		searched += read
		if err != nil && read > 0 {
			return nil, fmt.Errorf("searching %q: %w", line, err)
		} // else a device's
	}
	if searched < 1<<20 {
		return nil, fmt.Errorf("only %d bytes were searched", searched)
	}
	return s.found, nil
}

// Names returns the names of all needles, sorted.
func (n Needles) Names() (names []string) {
	for _, part := range n.Parts {
		names = append(names, part.Name)
	}
	slices.Sort(names)
	return names
}

type searcher struct {
	mask   uint64
	likely [1 << 16]bool // the first two bytes of a needle, masked
	names  map[uint64][]string
	found  map[string]string
}

// zeros is what most of a process's memory holds.
var zeros [64 << 10]byte

// mapping searches all of a mapping and returns how many bytes that were.
func (s *searcher) mapping(mapping io.Reader, where string) (read int64, err error) {
	chunk := make([]byte, len(zeros))
	kept := 0
	for {
		n, err := io.ReadFull(mapping, chunk[kept:])
		read += int64(n)
		end := kept + n
		if !bytes.Equal(chunk[:end], zeros[:end]) {
			s.chunk(chunk[:end], where)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return read, nil
		}
		if err != nil {
			return read, err
		}
		kept = copy(chunk, chunk[end-7:end])
	}
}

func (s *searcher) chunk(chunk []byte, where string) {
	for i := 0; len(chunk)-i >= 8; i++ {
		if i += s.skip(chunk[i:]); len(chunk)-i < 8 {
			return
		}
		for _, name := range s.names[binary.LittleEndian.Uint64(chunk[i:])^s.mask] {
			s.found[name] = where
		}
	}
}

// skip returns how many bytes come before the next eight that may be a needle.
// It goes through all memory, and is slow under the race detector.
//
//go:norace
func (s *searcher) skip(chunk []byte) int {
	low := uint16(s.mask)
	for i := 0; i+8 <= len(chunk); i++ {
		if s.likely[(uint16(chunk[i])|uint16(chunk[i+1])<<8)^low] {
			return i
		}
	}
	return len(chunk)
}
