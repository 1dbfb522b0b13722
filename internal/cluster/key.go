package cluster

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/strictmodes"
)

const (
	// keyWord begins each line of a key file.
	keyWord  = "balancer-cluster-key-1 "
	halfSize = 32
	lineSize = len(keyWord) + 86 // of two halves in base64
	maxSeals = 2
)

// Key is the secret of a cluster, which all of its managers have. It has two halves: one
// for the names of records in the engine, one for their values.
//
// The half for values can be replaced while the managers run, in three steps that are
// each made on all of them before the next: the new one is added behind the old one, so
// that it opens; then it stands first, so that it seals; when Stats.Old is 0 on all, the
// other is left out. The half for names stays the same as long as the cluster has its name:
// with two names a record could be written twice, and two managers would own a service.
type Key struct {
	names *locked.Buffer
	seals []*locked.Buffer // one or two: the first seals, all of them open
}

// NewKey returns the key of a new cluster.
func NewKey() *Key { return &Key{names: random(), seals: []*locked.Buffer{random()}} }

func random() *locked.Buffer {
	b := locked.New(halfSize)
	b.Use(func(secret []byte) { rand.Read(secret) })
	return b
}

// ReadKey reads the file that ref means, a path or a credential of systemd's, which only
// this process's user and root can use.
func ReadKey(ref string) (*Key, error) {
	k, err := readKey(ref)
	if err != nil {
		return nil, fmt.Errorf("reading the cluster key %q: %w", ref, err)
	}
	return k, nil
}

func readKey(ref string) (*Key, error) {
	path, err := openfile.Resolve(ref)
	if err != nil {
		return nil, err
	}
	f, _, err := openfile.Secret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := strictmodes.Current().Secret(path, f); err != nil {
		return nil, err
	}
	raw := locked.New(maxSeals*(lineSize+1) + 1) // one more byte shows that there are more
	defer raw.Wipe()
	n, err := raw.Fill(f)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	var k *Key
	raw.Do(func(text []byte) { k, err = ParseKey(text[:n]) })
	return k, err
}

// ParseKey reads the text of a key file. Errors repeat none of it.
func ParseKey(text []byte) (*Key, error) {
	k := &Key{}
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		text = rest
		names, seal, err := parseLine(line)
		switch {
		case err != nil:
			return nil, err
		case len(k.seals) == maxSeals:
			return nil, fmt.Errorf("more than %d lines", maxSeals)
		case k.names != nil && !k.names.Equal(names):
			return nil, errors.New("the lines are the keys of two clusters")
		}
		k.names, k.seals = names, append(k.seals, seal)
	}
	if len(k.seals) == 0 {
		return nil, errors.New("it is empty")
	}
	if len(k.seals) == 2 && k.seals[0].Equal(k.seals[1]) {
		return nil, errors.New("both lines are the same")
	}
	return k, nil
}

func parseLine(line []byte) (names, seal *locked.Buffer, err error) {
	text, ok := bytes.CutPrefix(line, []byte(keyWord))
	if !ok {
		return nil, nil, fmt.Errorf("a line does not begin with %q", keyWord)
	}
	if len(line) != lineSize {
		return nil, nil, fmt.Errorf("a line of %d bytes, want %d", len(line), lineSize)
	}
	both := locked.New(2 * halfSize)
	defer both.Wipe()
	names, seal = locked.New(halfSize), locked.New(halfSize)
	both.Use(func(secret []byte) {
		if _, e := base64.RawStdEncoding.Strict().Decode(secret, text); e != nil {
			err = errors.New("what follows is not base64")
			return
		}
		names.Use(func(half []byte) { copy(half, secret[:halfSize]) })
		seal.Use(func(half []byte) { copy(half, secret[halfSize:]) })
	})
	return names, seal, err
}

// Text returns the text of a key file, which the caller wipes.
func (k *Key) Text() *locked.Buffer {
	text := locked.New(len(k.seals) * (lineSize + 1))
	both := locked.New(2 * halfSize)
	defer both.Wipe()
	text.Use(func(text []byte) {
		both.Use(func(secret []byte) {
			for _, seal := range k.seals {
				k.names.Use(func(half []byte) { copy(secret, half) })
				seal.Use(func(half []byte) { copy(secret[halfSize:], half) })
				text = text[copy(text, keyWord):]
				base64.RawStdEncoding.Encode(text, secret)
				text = text[lineSize-len(keyWord):]
				text[0], text = '\n', text[1:]
			}
		})
	})
	return text
}
