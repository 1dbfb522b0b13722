package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"runtime/debug"

	"go.etcd.io/bbolt"
)

// The store's buckets. A value is sealed: 8 bytes of number, 8 bytes of checksum,
// the rest. The number is a record's version or the number of a key of meta.
var (
	metaBucket    = []byte("meta")
	recordsBucket = []byte("records")
	eventsBucket  = []byte("events") // keys are 8 bytes that count up

	layoutKey  = []byte("layout")  // of the store; stays readable in all layouts
	versionKey = []byte("version") // the highest that a record was given
	totalKey   = []byte("total")   // all records' checksums, combined by XOR
)

// layout is the store's layout. A higher one is a newer balancer's.
const layout = 1

const sealSize = 16

// checksum covers a value, its number and where it is.
func checksum(bucket, key []byte, number uint64, value []byte) uint64 {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, number))
	for _, part := range [][]byte{bucket, key, value} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

func seal(bucket, key []byte, number uint64, value []byte) (sealed []byte, sum uint64) {
	sum = checksum(bucket, key, number, value)
	sealed = make([]byte, 0, sealSize+len(value))
	sealed = binary.BigEndian.AppendUint64(sealed, number)
	sealed = binary.BigEndian.AppendUint64(sealed, sum)
	return append(sealed, value...), sum
}

// unseal checks a sealed value. The value returned is part of sealed.
func unseal(bucket, key, sealed []byte) (number, sum uint64, value []byte, err error) {
	if len(sealed) < sealSize {
		return 0, 0, nil, fmt.Errorf("%w: %s %q has %d bytes", ErrDamaged, bucket, key, len(sealed))
	}
	number, sum, value = binary.BigEndian.Uint64(sealed), binary.BigEndian.Uint64(sealed[8:]), sealed[sealSize:]
	if checksum(bucket, key, number, value) != sum {
		return 0, 0, nil, fmt.Errorf("%w: the checksum of %s %q is wrong", ErrDamaged, bucket, key)
	}
	return number, sum, value, nil
}

// panicError is a panic of bbolt, or the fault of a read from its file.
type panicError struct{ reason any }

func (e *panicError) Error() string { return fmt.Sprintf("%v: %v", ErrDamaged, e.reason) }
func (e *panicError) Unwrap() error { return ErrDamaged }

// guarded calls f and turns a panic into an error. bbolt panics on unexpected
// pages, and reads its file through memory that faults when the disk
// cannot give a page.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if reason := recover(); reason != nil {
			err = &panicError{reason}
		}
	}()
	return f()
}

// boltSource reads in a transaction.
type boltSource struct{ tx *bbolt.Tx }

func (s boltSource) entry(key Key) (Entry, error) {
	sealed := s.tx.Bucket(recordsBucket).Get([]byte(key))
	if sealed == nil {
		return Entry{}, nil
	}
	version, _, value, err := unseal(recordsBucket, []byte(key), sealed)
	return Entry{key, version, bytes.Clone(value)}, err
}

func (s boltSource) list(prefix Key) ([]Entry, error) {
	var list []Entry
	c := s.tx.Bucket(recordsBucket).Cursor()
	for key, sealed := c.Seek([]byte(prefix)); bytes.HasPrefix(key, []byte(prefix)) && key != nil; key, sealed = c.Next() {
		version, _, value, err := unseal(recordsBucket, key, sealed)
		if err != nil {
			return nil, err
		}
		list = append(list, Entry{Key(key), version, bytes.Clone(value)})
	}
	return list, nil
}

func (s boltSource) newest() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		c := s.tx.Bucket(eventsBucket).Cursor()
		for key, sealed := c.Last(); key != nil; key, sealed = c.Prev() {
			_, _, event, err := unseal(eventsBucket, key, sealed)
			if !yield(event, err) {
				return
			}
		}
	}
}

// writer changes records and events in a transaction.
type writer struct {
	tx                  *bbolt.Tx
	meta, records, ring *bbolt.Bucket
	version, total      uint64
}

func newWriter(tx *bbolt.Tx) *writer {
	return &writer{tx: tx, meta: tx.Bucket(metaBucket), records: tx.Bucket(recordsBucket), ring: tx.Bucket(eventsBucket)}
}

// update changes a store by f, in one transaction.
func update(db *bbolt.DB, f func(*writer) error) error {
	return db.Update(func(tx *bbolt.Tx) (err error) {
		w := newWriter(tx)
		if w.version, _, _, err = unseal(metaBucket, versionKey, w.meta.Get(versionKey)); err != nil {
			return err
		}
		if w.total, _, _, err = unseal(metaBucket, totalKey, w.meta.Get(totalKey)); err != nil {
			return err
		}
		if err := f(w); err != nil {
			return err
		}
		return w.finish()
	})
}

func (w *writer) putMeta(key []byte, number uint64) error {
	sealed, _ := seal(metaBucket, key, number, nil)
	return w.meta.Put(key, sealed)
}

// finish writes the changed meta values.
func (w *writer) finish() error {
	if err := w.putMeta(versionKey, w.version); err != nil {
		return err
	}
	return w.putMeta(totalKey, w.total)
}

// check returns the checksums of the records to change, or why they
// may not be: a *ConflictError, or one of them is damaged.
func (w *writer) check(changes []Change) ([]uint64, error) {
	sums := make([]uint64, len(changes))
	for i, c := range changes {
		var have uint64
		if sealed := w.records.Get([]byte(c.Key)); sealed != nil {
			var err error
			if have, sums[i], _, err = unseal(recordsBucket, []byte(c.Key), sealed); err != nil {
				return nil, err
			}
		}
		if have != c.Version {
			return nil, &ConflictError{c.Key, c.Version, have}
		}
	}
	return sums, nil
}

// apply makes checked changes, and returns the new versions.
func (w *writer) apply(changes []Change, sums []uint64) ([]uint64, error) {
	versions := make([]uint64, len(changes))
	for i, c := range changes {
		w.total ^= sums[i]
		if c.Value == nil {
			if err := w.records.Delete([]byte(c.Key)); err != nil {
				return nil, err
			}
			continue
		}
		w.version++
		if err := w.put(c.Key, w.version, c.Value); err != nil {
			return nil, err
		}
		versions[i] = w.version
	}
	return versions, nil
}

// put stores a record whose predecessor is out of the total already.
func (w *writer) put(key Key, version uint64, value []byte) error {
	sealed, sum := seal(recordsBucket, []byte(key), version, value)
	w.total ^= sum
	return w.records.Put([]byte(key), sealed)
}

// appendEvents adds events and deletes the oldest beyond bound.
func (w *writer) appendEvents(events [][]byte, bound int) error {
	if len(events) == 0 {
		return nil
	}
	var last uint64
	c := w.ring.Cursor()
	if key, _ := c.Last(); key != nil {
		last = binary.BigEndian.Uint64(key)
	}
	for _, event := range events {
		last++
		key := binary.BigEndian.AppendUint64(nil, last)
		sealed, _ := seal(eventsBucket, key, last, event)
		if err := w.ring.Put(key, sealed); err != nil {
			return err
		}
	}
	for {
		key, _ := c.First()
		if key == nil || binary.BigEndian.Uint64(key)+uint64(bound) > last {
			return nil
		}
		if err := w.ring.Delete(key); err != nil {
			return err
		}
	}
}
