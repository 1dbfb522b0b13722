package offline

import (
	"errors"
	"path/filepath"
	"slices"
)

// before counts the keys and entries of periods before first. If all entries
// are, they do not count: they stay, to tell until when there were any.
func (c *contents) before(first uint64) (keys, entries int) {
	for _, k := range c.keys.Keys {
		if k.Period < first {
			keys++
		}
	}
	if c.bundle == nil {
		return keys, 0
	}
	for _, e := range c.bundle.Entries {
		if e.Period < first {
			entries++
		}
	}
	return keys, entries % len(c.bundle.Entries)
}

// retire removes from dir what is of periods before first.
func retire(dir string, first uint64) error {
	unlock, err := lock(dir, 0)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := load(dir)
	if err != nil {
		return err
	}
	defer c.keys.wipe()
	keys, entries := c.before(first)
	if keys > 0 {
		err = retireKeys(dir, *c.keys, first)
	}
	if entries > 0 {
		err = errors.Join(err, writeBundle(dir, newBundle(c.bundle.Schedule, c.bundle.Entries[entries:])))
	}
	return err
}

func retireKeys(dir string, kept keysFile, first uint64) error {
	kept.Keys = slices.DeleteFunc(slices.Clone(kept.Keys), func(k keyPair) bool { return k.Period < first })
	r, err := stageKeys(dir, &kept)
	if err != nil {
		return err
	}
	return r.wipingCommit()
}

func stageBundle(dir string, b *Bundle) (*replacement, error) {
	raw, err := b.Encode()
	if err != nil {
		return nil, err
	}
	return stage(filepath.Join(dir, BundleFile), raw)
}

func writeBundle(dir string, b *Bundle) error {
	r, err := stageBundle(dir, b)
	if err != nil {
		return err
	}
	return r.commit()
}
