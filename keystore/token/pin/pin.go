package pin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"onionbalancer/internal/locked"
)

// maxSize of a PIN in bytes is beyond what any token takes.
const maxSize = 256

// Read returns the PIN, 1 to 256 bytes, which the caller wipes; nil if s is
// zero. Files and credentials are read anew each time. A descriptor is read
// until its end and a person is asked only once in the life of the process, the
// person once for each token; name says for which. Read may be called
// concurrently, and waits for one question or descriptor at a time.
func (s Source) Read(ctx context.Context, name string) (*locked.Buffer, error) {
	var pin *locked.Buffer
	var err error
	switch s.kind {
	case kindNone:
		return nil, nil
	case kindFile:
		pin, err = readFile(s.value)
	case kindCredential:
		pin, err = readCredential(s.String())
	case kindDescriptor:
		pin, err = once(ctx, s.String(), func() (*locked.Buffer, error) { return readDescriptor(ctx, s.value) })
	case kindPrompt:
		pin, err = once(ctx, s.String()+" "+name, func() (*locked.Buffer, error) { return prompt(ctx, name) })
	}
	if err != nil {
		return nil, fmt.Errorf("reading the PIN from %s: %w", s, err)
	}
	return pin, nil
}

// once remembers PINs that can be had only once. The channel is held while one
// is got, and guards the map.
var (
	getting    = make(chan struct{}, 1)
	remembered = map[string]*locked.Buffer{}
)

func once(ctx context.Context, key string, get func() (*locked.Buffer, error)) (*locked.Buffer, error) {
	select {
	case getting <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-getting }()
	if kept := remembered[key]; kept != nil {
		return clone(kept.Bytes()), nil
	}
	pin, err := get()
	if err != nil {
		return nil, err
	}
	remembered[key] = clone(pin.Bytes())
	return pin, nil
}

func clone(pin []byte) *locked.Buffer {
	b := locked.New(len(pin))
	copy(b.Bytes(), pin)
	return b
}

// trim takes what was read into the first n bytes of b, cuts off the newline,
// and wipes b. What cannot be a PIN must not be tried as one.
func trim(b *locked.Buffer, n int) (*locked.Buffer, error) {
	defer runtime.KeepAlive(b)
	defer b.Wipe()
	text := bytes.TrimSuffix(b.Bytes()[:n], []byte("\n"))
	switch {
	case len(text) == 0:
		return nil, errors.New("it is empty")
	case len(text) > maxSize:
		return nil, fmt.Errorf("there are more than %d bytes; is it the right place?", maxSize)
	case bytes.IndexByte(text, '\n') >= 0:
		return nil, errors.New("there is more than one line")
	case bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return nil, errors.New("there are control characters, such as a tabulator or a carriage return")
	}
	return clone(text), nil
}

// room is for the longest PIN, its newline, and one byte that shows that there
// is more.
const room = maxSize + 2

// claimed are the descriptors that Claim has looked at, and whether they were
// inherited.
var claimed sync.Map
