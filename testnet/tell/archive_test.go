package tell

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	"onionbalancer/descriptor"
)

// capturedFile has the descriptors of a run of TestRealTor, as archived ones.
const capturedFile = "testdata/captured.json.gz"

// capture is what was seen of a service of real tor: its two descriptors.
type capture struct {
	Address     string
	Descriptors [2]capturedDescriptor // the second may be missing
}

// capturedDescriptor is one descriptor. Its texts are kept decrypted, since what is
// encrypted does not compress.
type capturedDescriptor struct {
	Period   descriptor.Period
	RunStart time.Time
	Counter  []byte // key of the revision counter
	Bodies   []capturedBody

	raw [][]byte
}

type capturedBody struct {
	Revision              uint64
	Outer, First, Second  string
	Padding               int // zeros
	FirstSalt, SecondSalt []byte
}

// samples returns both descriptors of each service.
func samples(captures []capture) (list []*Sample, err error) {
	for _, c := range captures {
		address, err := descriptor.ParseAddress(c.Address)
		if err != nil {
			return nil, err
		}
		for n, d := range c.Descriptors {
			other := c.Descriptors[1-n]
			if len(d.raw) == 0 {
				continue
			}
			key, err := descriptor.NewRevisionKey(d.Counter)
			if err != nil {
				return nil, err
			}
			s := &Sample{Address: address, Period: d.Period, RunStart: d.RunStart, Counter: key, Bodies: d.raw}
			if len(other.raw) > 0 {
				s.Other, s.OtherPeriod = other.raw[0], other.Period
			}
			list = append(list, s)
		}
	}
	return list, nil
}

// writeCaptures archives what readCaptures gives back, byte for byte.
func writeCaptures(path string, captures []capture) error {
	for n := range captures {
		c := &captures[n]
		address, err := descriptor.ParseAddress(c.Address)
		if err != nil {
			return err
		}
		for n := range c.Descriptors {
			d := &c.Descriptors[n]
			keys, err := address.Keys(d.Period)
			if err != nil {
				return err
			}
			d.Bodies = nil
			for _, raw := range d.raw {
				l, err := openLayers(raw, keys)
				if err != nil {
					return err
				}
				if len(bytes.Trim(l.padding, "\x00")) > 0 || !bytes.Equal(l.seal(keys), raw) {
					return errors.New("a descriptor does not come out of its archived form as it was")
				}
				d.Bodies = append(d.Bodies, capturedBody{l.revision, l.outer, l.first, l.second, len(l.padding), l.firstSalt[:], l.secondSalt[:]})
			}
		}
	}
	text, err := json.MarshalIndent(captures, "", " ")
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(text)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// readCaptures reads an archive and seals its texts again.
func readCaptures(path string) (captures []capture, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(r)
	if err == nil {
		err = json.Unmarshal(text, &captures)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	for n := range captures {
		c := &captures[n]
		address, err := descriptor.ParseAddress(c.Address)
		if err != nil {
			return nil, err
		}
		for n := range c.Descriptors {
			d := &c.Descriptors[n]
			keys, err := address.Keys(d.Period)
			if err != nil {
				return nil, err
			}
			for _, b := range d.Bodies {
				l := layers{outer: b.Outer, first: b.First, second: b.Second, padding: make([]byte, b.Padding), revision: b.Revision,
					firstSalt: [saltSize]byte(b.FirstSalt), secondSalt: [saltSize]byte(b.SecondSalt)}
				d.raw = append(d.raw, l.seal(keys))
			}
		}
	}
	return captures, nil
}

var revisionLine = regexp.MustCompile(`(?m)^revision-counter ([0-9]+)$`)

// revision is the counter in a descriptor, 0 if there is none.
func revision(raw []byte) (n uint64) {
	if m := revisionLine.FindSubmatch(raw); m != nil {
		n, _ = strconv.ParseUint(string(m[1]), 10, 64)
	}
	return n
}
