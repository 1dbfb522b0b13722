package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"

	"onionbalancer/internal/openfile"
)

// This file reads a store without bbolt, which trusts its pages: one flipped bit
// can make it panic, loop, or overwrite pages in use, and a truncated file
// faults. Everything is read and checked here before bbolt gets
// the file. The intact part of a damaged store can be carried over, and a store
// that another process writes can be looked at.

// bbolt's file format, version 2: pages with a header of 16 bytes, in the byte
// order of the machine.
const (
	pageHeader  = 16 // id 8, flags 2, count 2, overflow 4
	elementSize = 16 // of a branch: position 4, key size 4, page 8; of a leaf: flags, position, key and value sizes, each 4
	metaSize    = 64
	bucketSize  = 16 // root page 8, sequence 8; an inline bucket's page follows

	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10
	bucketEntry  = 0x01 // flag of a leaf's element

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = 1<<64 - 1
	maxDepth    = 32
)

var order = binary.NativeEndian

// meta is the content of a meta page after its header.
type meta struct {
	Magic, Version, PageSize, Flags uint32
	Root, Sequence                  uint64 // of the root bucket: its page, a counter
	Free, High                      uint64 // pages: of the free list, the first one never used
	Transaction, Checksum           uint64
}

// verifier reads one state of a store's file, that of its newest transaction.
type verifier struct {
	file   io.ReaderAt
	size   int64 // of the file
	meta         // of the newest transaction
	used   map[uint64]bool
	damage error // the first problem
	more   int   // problems after it
}

func (v *verifier) pageSize() int64 { return int64(v.PageSize) }

// readFile reads the store in file. With an error that is ErrDamaged, the
// snapshot holds its intact records.
func readFile(file *os.File) (*snapshot, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	v := &verifier{file: file, size: info.Size(), used: map[uint64]bool{0: true, 1: true}}
	s := &snapshot{records: make(map[Key]Entry)}
	if err := v.readMeta(); err != nil {
		return s, err
	}
	buckets := make(map[string][]pair)
	v.walk(v.Root, &bound{}, 0, func(p pair) {
		if p.flags != bucketEntry {
			v.problem("an entry %q that is no bucket", p.key)
			return
		}
		buckets[string(p.key)] = v.bucket(p.value)
	})
	// A store without a readable layout is only damaged.
	if number, ok := v.number(buckets[string(metaBucket)], layoutKey); ok && number > layout {
		return nil, fmt.Errorf("%w: its layout is %d, this one knows %d", ErrNewer, number, layout)
	}
	v.readRecords(s, buckets)
	v.readEvents(s, buckets[string(eventsBucket)])
	v.readFreelist()
	return s, v.err()
}

func (v *verifier) problem(format string, args ...any) {
	if v.damage != nil {
		v.more++
		return
	}
	v.damage = fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

func (v *verifier) err() error {
	if v.more == 0 {
		return v.damage
	}
	return fmt.Errorf("%w, and %d more", v.damage, v.more)
}

// readMeta finds the newest of the two meta pages. They are one page apart, and
// contain the page size.
func (v *verifier) readMeta() error {
	found, newer := false, false
	for position := int64(0); position <= 1<<24 && position < v.size; position = max(1024, 2*position) {
		raw := make([]byte, pageHeader+metaSize)
		if _, err := v.file.ReadAt(raw, position); err != nil {
			continue
		}
		var m meta
		if _, err := binary.Decode(raw[pageHeader:], order, &m); err != nil {
			return err
		}
		h := fnv.New64a()
		h.Write(raw[pageHeader : pageHeader+metaSize-8])
		switch {
		case m.Magic != boltMagic || m.Checksum != h.Sum64():
		case m.Version > boltVersion:
			newer = true
		case m.PageSize < 1024 || position != 0 && position != int64(m.PageSize):
		case !found || m.Transaction >= v.Transaction:
			found, v.meta = true, m
		}
	}
	switch {
	case newer:
		return fmt.Errorf("%w: its file format is not known", ErrNewer)
	case !found:
		return fmt.Errorf("%w: no page says how to read it", ErrDamaged)
	}
	return nil
}

// page is a page with its overflow pages.
type page struct {
	flags uint16
	count int // of elements
	raw   []byte
}

// page reads a page and marks its place as used.
func (v *verifier) page(id uint64) (page, error) {
	if id >= v.High || int64(id) >= v.size/v.pageSize() {
		return page{}, fmt.Errorf("page %d is beyond the end", id)
	}
	header := make([]byte, pageHeader)
	if _, err := v.file.ReadAt(header, int64(id)*v.pageSize()); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	overflow := uint64(order.Uint32(header[12:]))
	if order.Uint64(header) != id || overflow >= v.High-id || int64(id+overflow) >= v.size/v.pageSize() {
		return page{}, fmt.Errorf("page %d: its head is wrong", id)
	}
	for n := id; n <= id+overflow; n++ {
		if v.used[n] {
			return page{}, fmt.Errorf("page %d is used twice", n)
		}
		v.used[n] = true
	}
	raw := make([]byte, int64(overflow+1)*v.pageSize())
	if _, err := v.file.ReadAt(raw, int64(id)*v.pageSize()); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	return page{order.Uint16(header[8:]), int(order.Uint16(header[10:])), raw}, nil
}

// pair is an element of a leaf.
type pair struct {
	flags      uint32
	key, value []byte
}

// bound is the least key allowed next: within a page and from page to page
// they rise. The key in a branch is the first one of the page below, by which bbolt
// finds its place again.
type bound struct {
	key   []byte
	exact bool // the next key is this one
}

func (b *bound) pass(key []byte) bool {
	return b.key == nil || b.exact && bytes.Equal(key, b.key) || !b.exact && bytes.Compare(key, b.key) > 0
}

// walk calls f with the pairs below a page.
func (v *verifier) walk(id uint64, b *bound, depth int, f func(pair)) {
	p, err := v.page(id)
	if err != nil {
		v.problem("%w", err)
		return
	}
	switch {
	case p.flags == leafPage:
		v.leaf(p.raw, p.count, b, f)
	case p.flags == branchPage && p.count > 0 && depth < maxDepth:
		for i := range p.count {
			at := pageHeader + i*elementSize
			if at+elementSize > len(p.raw) {
				v.problem("page %d: %d elements do not fit", id, p.count)
				return
			}
			key, ok := slice(p.raw, at+int(order.Uint32(p.raw[at:])), int(order.Uint32(p.raw[at+4:])))
			if !ok || !b.pass(key) {
				v.problem("page %d: key %d is wrong", id, i)
			} else {
				b.key, b.exact = key, true
			}
			v.walk(order.Uint64(p.raw[at+8:]), b, depth+1, f)
		}
	default:
		v.problem("page %d: not a page of data", id)
	}
}

// leaf calls f with the pairs of a leaf.
func (v *verifier) leaf(raw []byte, count int, b *bound, f func(pair)) {
	for i := range count {
		at := pageHeader + i*elementSize
		if at+elementSize > len(raw) {
			v.problem("a leaf: %d elements do not fit", count)
			return
		}
		position, keySize, valueSize := int(order.Uint32(raw[at+4:])), int(order.Uint32(raw[at+8:])), int(order.Uint32(raw[at+12:]))
		key, ok := slice(raw, at+position, keySize)
		value, fits := slice(raw, at+position+keySize, valueSize)
		if !ok || !fits || keySize == 0 || !b.pass(key) {
			v.problem("a leaf: element %d is wrong", i)
			continue
		}
		b.key, b.exact = key, false
		f(pair{order.Uint32(raw[at:]), key, value})
	}
}

// slice returns size bytes of raw from a position, if it has them.
func slice(raw []byte, from, size int) ([]byte, bool) {
	if from < 0 || size < 0 || from > len(raw) || size > len(raw)-from {
		return nil, false
	}
	return raw[from : from+size], true
}

// bucket returns the pairs of a bucket, whose entry in the root's leaf is given.
func (v *verifier) bucket(entry []byte) []pair {
	var pairs []pair
	keep := func(p pair) {
		if p.flags != 0 {
			v.problem("an entry %q of an unknown kind", p.key)
			return
		}
		pairs = append(pairs, p)
	}
	if len(entry) < bucketSize {
		v.problem("a bucket of %d bytes", len(entry))
		return nil
	}
	if root := order.Uint64(entry); root != 0 {
		v.walk(root, &bound{}, 0, keep)
		return pairs
	}
	inline := entry[bucketSize:]
	if len(inline) < pageHeader || order.Uint16(inline[8:]) != leafPage {
		v.problem("a bucket's page is wrong")
		return nil
	}
	v.leaf(inline, int(order.Uint16(inline[10:])), &bound{}, keep)
	return pairs
}

// number returns a number of the meta bucket.
func (v *verifier) number(pairs []pair, key []byte) (uint64, bool) {
	for _, p := range pairs {
		if bytes.Equal(p.key, key) {
			if number, _, _, err := unseal(metaBucket, key, p.value); err == nil {
				return number, true
			}
		}
	}
	v.problem("%s is not told", key)
	return 0, false
}

func (v *verifier) readRecords(s *snapshot, buckets map[string][]pair) {
	numbers := buckets[string(metaBucket)]
	highest, told := v.number(numbers, versionKey)
	total, toldTotal := v.number(numbers, totalKey)
	s.version = highest
	sum := uint64(0)
	for _, p := range buckets[string(recordsBucket)] {
		version, checksum, value, err := unseal(recordsBucket, p.key, p.value)
		if err != nil {
			v.problem("%w", err)
			continue
		}
		if told && version > highest {
			v.problem("%s has version %d, the highest is %d", p.key, version, highest)
		}
		sum ^= checksum
		s.version = max(s.version, version)
		s.records[Key(p.key)] = Entry{Key(p.key), version, bytes.Clone(value)}
	}
	if toldTotal && sum != total {
		v.problem("records are missing or old: the sum of their checksums is wrong")
	}
}

func (v *verifier) readEvents(s *snapshot, pairs []pair) {
	last := uint64(0)
	for _, p := range pairs {
		number, _, event, err := unseal(eventsBucket, p.key, p.value)
		if err == nil && last != 0 && number != last+1 {
			err = fmt.Errorf("event %d follows event %d", number, last)
		}
		if err != nil {
			v.problem("%w", err)
			continue
		}
		last = number
		s.ring = append(s.ring, bytes.Clone(event))
	}
}

// readFreelist checks that no page in use counts as free.
func (v *verifier) readFreelist() {
	if v.Free == noFreelist {
		return
	}
	p, err := v.page(v.Free)
	if err != nil {
		v.problem("%w", err)
		return
	}
	count, at := p.count, pageHeader
	if count == 0xFFFF { // too many for two bytes
		count, at = int(min(order.Uint64(p.raw[at:]), uint64(len(p.raw)))), at+8
	}
	ids, ok := slice(p.raw, at, 8*count)
	if p.flags != freelistPage || !ok {
		v.problem("the list of free pages is wrong")
		return
	}
	last := uint64(1)
	for id := range slices.Chunk(ids, 8) {
		n := order.Uint64(id)
		if n <= last || n >= v.High || v.used[n] {
			v.problem("page %d is free and in use", n)
		}
		last = n
	}
}

// readStable reads a store that another process may be writing: until one state of
// it is found whole.
func readStable(path string) (*snapshot, error) {
	file, _, err := openfile.Regular(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var s *snapshot
	for range 20 {
		if s, err = readFile(file); !errors.Is(err, ErrDamaged) {
			return s, err
		}
	}
	if locked(file) {
		return nil, fmt.Errorf("reading it: %w, which changes it too often", ErrInUse)
	}
	return s, err
}
