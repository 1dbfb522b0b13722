package offline

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"onionbalancer/descriptor"
	"onionbalancer/internal/shell"
)

// Preparation says for what Prepare makes keys.
type Preparation struct {
	Dir     string             // made if it is missing
	Address descriptor.Address // zero: the one whose directory it is
	Schedule
	First  uint64
	Count  int
	Source Source    // nil: keys on the disk
	Random io.Reader // nil: crypto/rand.Reader
}

// torSecretFile makes a directory a HiddenServiceDir of tor.
const torSecretFile = "hs_ed25519_secret_key"

// Prepare makes the signing keys of a directory for some periods and returns
// the request for them. Existing keys stay, and are requested again. All are
// on the disk, or on the token, when it returns.
func Prepare(ctx context.Context, p Preparation) (Wanted, error) {
	w, err := p.prepare(ctx)
	if err != nil {
		return Wanted{}, fmt.Errorf("making signing keys in %s: %w", p.Dir, err)
	}
	return w, nil
}

func (p Preparation) prepare(ctx context.Context) (w Wanted, err error) {
	if p.Count < 1 || p.Count > MaxPeriods {
		return w, fmt.Errorf("%d periods, want 1 to %d", p.Count, MaxPeriods)
	}
	if err := p.Schedule.validate(p.First, p.Count); err != nil {
		return w, err
	}
	if err := makeDir(p.Dir); err != nil {
		return w, err
	}
	unlock, err := lock(p.Dir, patience)
	if err != nil {
		return w, err
	}
	defer unlock()
	c, err := p.current()
	if err != nil {
		return w, err
	}
	defer func() { c.keys.wipe() }()
	random := p.Random
	if random == nil {
		random = rand.Reader
	}
	made, err := c.keys.ensure(ctx, p.First, p.Count, p.Source, random)
	if err != nil {
		return w, err
	}
	if made {
		r, err := stageKeys(p.Dir, c.keys)
		if err != nil {
			return w, err
		}
		if err := r.commit(); err != nil {
			return w, err
		}
	}
	w.Address = c.keys.Address
	w.CertifiedThrough = c.through(p.First)
	for number := p.First; number < p.First+uint64(p.Count); number++ {
		w.Keys = append(w.Keys, c.keys.of(number).Public)
	}
	return w, nil
}

// current returns the present content, or the initial content of a new directory.
func (p Preparation) current() (*contents, error) {
	if _, err := os.Lstat(filepath.Join(p.Dir, KeysFile)); errors.Is(err, fs.ErrNotExist) {
		if err := p.Address.Validate(); err != nil {
			return nil, fmt.Errorf("the address is %w", err)
		}
		if _, err := os.Lstat(filepath.Join(p.Dir, torSecretFile)); err == nil {
			return nil, fmt.Errorf("the directory has an identity key in it (%s), which it would make unusable: name a new directory", torSecretFile)
		}
		return &contents{keys: &keysFile{header: header{kindKeys, version}, Address: p.Address, Schedule: p.Schedule}}, nil
	}
	c, err := load(p.Dir)
	if err != nil {
		return nil, err
	}
	switch {
	case p.Address != descriptor.Address{} && c.keys.Address != p.Address:
		err = fmt.Errorf("it is the directory of %s, not of %s: name another with --dir; or, if its keys are no longer needed, run: rm -r %s",
			c.keys.Address.Short(), p.Address.Short(), shell.Quote(p.Dir))
	case c.keys.Schedule != p.Schedule:
		err = fmt.Errorf("its keys are for %s, not for %s: use a new directory", c.keys.Schedule, p.Schedule)
	}
	if err != nil {
		c.keys.wipe()
		return nil, err
	}
	return c, nil
}

// through returns the last period of the uninterrupted run of usable entries
// that begins at first or before; the last one before first if first has none.
func (c *contents) through(first uint64) (last uint64) {
	for _, e := range c.certified() {
		if e.Period > first && e.Period != last+1 {
			break
		}
		last = e.Period
	}
	return last
}

// stageKeys writes a new version of the file of keys.
func stageKeys(dir string, f *keysFile) (r *replacement, err error) {
	raw, err := f.encode()
	if err != nil {
		return nil, err
	}
	defer raw.Wipe()
	raw.Use(func(text []byte) { r, err = stage(filepath.Join(dir, KeysFile), text) })
	return r, err
}
