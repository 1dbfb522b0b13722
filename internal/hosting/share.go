package hosting

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/state"
	"onionbalancer/keystore/offline"
)

// KeyPrefix is that of the records of keys, in a store that several managers share:
//
//	secret/customer/SHARD/LABEL
//
// has the files of the key directory that a shard has of an address: of a customer who was not
// removed, of a spare, or of a pending key. What a manager lacks in its directories it gets
// from there, and what it has alone it puts there.
const KeyPrefix = state.SecretPrefix + "customer/"

func keyKey(shard string, a descriptor.Address) state.Key {
	return state.Key(KeyPrefix + shard + "/" + a.Label())
}

// keyRecord is such a record.
type keyRecord struct {
	Pending bool              `json:"pending,omitempty"` // the replicas do not know it yet
	For     string            `json:"for,omitempty"`     // the customer that a pending key was brought for
	Files   map[string][]byte `json:"files"`
}

// maxKeyFiles bounds the files of a key directory together.
const maxKeyFiles = 256 << 10 // 256 KiB

// errApart says that the keys in a directory are not shared.
var errApart = errors.New("keys of an offline ceremony are each manager's own")

// ShareKeys has the keys of spares and customers be those of all managers that share the store.
// It is called before Configure.
func (r *Registry) ShareKeys() { r.sharing = r.shared != nil }

// hearKeys takes in the records of keys that were noted.
func (r *Registry) hearKeys(ctx context.Context) {
	r.heard.mu.Lock()
	keys := slices.Sorted(maps.Keys(r.heard.secrets))
	clear(r.heard.secrets)
	r.heard.mu.Unlock()
	shards := make(map[string][]descriptor.Address)
	for _, key := range keys {
		name, label, _ := strings.Cut(strings.TrimPrefix(string(key), KeyPrefix), "/")
		if a, err := descriptor.ParseAddress(label); err == nil && strings.HasPrefix(string(key), KeyPrefix) {
			shards[name] = append(shards[name], a)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shards)) {
		r.shareEach(ctx, name, shards[name])
	}
}

// shareAll compares all keys of a shard with the records.
func (r *Registry) shareAll(ctx context.Context, name string) {
	s := r.shard(name)
	if !r.sharing || !r.shared.Joined() || s == nil || s.dir == nil {
		return
	}
	all := make(map[descriptor.Address]bool)
	entries, err := r.store.List(state.Key(KeyPrefix + name + "/"))
	for _, e := range entries {
		clear(e.Value)
		if a, err := descriptor.ParseAddress(string(e.Key[len(KeyPrefix)+len(name)+1:])); err == nil {
			all[a] = true
		}
	}
	if err != nil {
		r.setApart(s, true)
		r.log.Warn("keys are not compared with those of the cluster", "shard", name, "error", err)
		return
	}
	for _, list := range []func() ([]descriptor.Address, error){s.dir.Spares, s.dir.Pending} {
		addresses, err := list()
		if err != nil {
			r.note(s, err)
			return
		}
		for _, a := range addresses {
			all[a] = true
		}
	}
	r.mu.Lock()
	for _, e := range r.sorted {
		if e.version != 0 && e.State != Removed && (e.Shard == name || e.MovingTo == name) {
			all[e.Address] = true
		}
	}
	r.mu.Unlock()
	r.setApart(s, false)
	r.shareEach(ctx, name, slices.Collect(maps.Keys(all)))
}

// setApart sets whether keys of a shard are to be compared again though its directory is as
// it was.
func (r *Registry) setApart(s *shard, apart bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.apart = apart
}

// shareEach compares keys of a shard with their records.
func (r *Registry) shareEach(ctx context.Context, name string, list []descriptor.Address) {
	s := r.shard(name)
	if !r.sharing || s == nil || s.dir == nil {
		return
	}
	var mu sync.Mutex
	var errs []error
	stopped := false
	var workers errgroup.Group
	workers.SetLimit(sharedAtOnce) // they share transactions
	for _, a := range list {
		workers.Go(func() error {
			mu.Lock()
			down := stopped
			mu.Unlock()
			if down {
				return nil
			}
			if err := r.share(ctx, s, a); err != nil && !errors.Is(err, state.ErrConflict) {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("the key of %s: %w", a.Short(), err))
				stopped = stopped || errors.Is(err, errNotStored) // each of the others would take as long
			}
			return nil
		})
	}
	_ = workers.Wait()
	if len(errs) > 0 {
		r.setApart(s, true)
	}
	if len(errs) > 0 && ctx.Err() == nil {
		r.log.Warn("keys are not those of the cluster yet", "shard", name, "keys", len(errs), "error", errs[0])
	}
	if len(list) > 0 {
		r.countKeys(s)
	}
}

// countKeys counts a shard's keys again, after some came or were moved.
func (r *Registry) countKeys(s *shard) {
	l, err := s.dir.list()
	if err != nil {
		r.note(s, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Removed, s.Pending, s.spares = len(l.removed), len(l.pending), nil
	for a := range l.spares {
		if r.find(a) == nil {
			s.spares = append(s.spares, a)
		}
	}
}

// share compares a key of a shard with its record.
func (r *Registry) share(ctx context.Context, s *shard, a descriptor.Address) error {
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	r.mu.Lock()
	var c Customer
	keyed := false
	if e := r.find(a); e != nil {
		if e.busy != nil || e.version == 0 {
			r.mu.Unlock()
			return nil // whoever changes it looks after its key, and this comes again
		}
		c, keyed = e.Customer, e.keyed
	}
	r.mu.Unlock()
	key := keyKey(s.Name, a)
	value, version, err := r.store.Get(key)
	defer clear(value)
	if err != nil {
		return err
	}
	if c.Name != "" && (c.State == Removed || c.Shard != s.Name && c.MovingTo != s.Name) {
		if version != 0 {
			err = r.storeKey(ctx, state.Change{Key: key, Version: version})
		}
		return err
	}
	record, err := decodeKey(value)
	defer record.wipe()
	if err != nil {
		return fmt.Errorf("reading the record of a key: %w", err)
	}
	here := s.dir.whereIs(c.Name, a)
	pending := filepath.Join(pendingDir, a.Label())
	switch {
	case here == "" && version == 0:
		return nil
	case here == "" && c.Name != "" && c.Shard == s.Name:
		if !keyed { // else the operator is moving it
			r.placeOne(a)
		}
		return nil
	case here == "":
		return r.fetch(s, a, record, c)
	case version != 0 && !record.Pending && here == pending:
		to := SpareDir(a)
		if record.For != "" {
			to = record.For
		}
		return s.dir.move(a, here, to)
	case version != 0 && (!record.Pending || here == pending):
		return nil
	}
	change := state.Change{Key: key, Version: version}
	if change.Value, err = s.dir.pack(here, here == pending, record.For); errors.Is(err, errApart) {
		return nil
	}
	defer clear(change.Value)
	if err == nil {
		err = r.storeKey(ctx, change)
	}
	return err
}

// errNotStored says that the store did not make a change.
var errNotStored = errors.New("it is not stored")

func (r *Registry) storeKey(ctx context.Context, change state.Change) error {
	_, err := r.store.Swap(ctx, change)
	if err != nil {
		err = fmt.Errorf("%w: %w", errNotStored, err)
	}
	return err
}

// whereIs returns where the key of an address is that is not a removed customer's; empty if it
// is not here. name is that of its customer, empty if it has none.
func (d *Dir) whereIs(name string, a descriptor.Address) string {
	if name != "" {
		if is, err := d.Address(name); err == nil && is == a {
			return name
		}
	}
	for _, dir := range []string{sparesDir, pendingDir} {
		sub := filepath.Join(dir, a.Label())
		if _, err := os.Lstat(filepath.Join(d.path, sub)); err == nil {
			return sub
		}
	}
	return ""
}

// fetch makes the directory of a key that is not here.
func (r *Registry) fetch(s *shard, a descriptor.Address, record *keyRecord, c Customer) error {
	sub := SpareDir(a)
	switch {
	case c.Name != "" && (c.Shard == s.Name || !record.Pending):
		sub = c.Name
	case record.Pending:
		sub = filepath.Join(pendingDir, a.Label())
	case record.For != "":
		return nil // its customer's record comes
	}
	err := s.make(sub, func(dir string) error {
		if err := record.write(dir); err != nil {
			return err
		}
		if is, err := s.dir.Address(filepath.Join(pendingDir, makingDir)); err != nil || is != a {
			return errors.Join(fmt.Errorf("it is the key of %s", is.Short()), err)
		}
		if filepath.Dir(sub) == pendingDir && record.For != "" {
			return durable.WriteNew(filepath.Join(dir, customerFile), []byte(record.For+"\n"), privateFile)
		}
		return nil
	})
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%q: %w by something else", sub, ErrTaken)
	}
	return err
}

// takeKey makes the directory of the key of a served customer from its record.
func (r *Registry) takeKey(s *shard, c Customer) error {
	if !r.sharing {
		return errNoKey
	}
	value, version, err := r.store.Get(keyKey(s.Name, c.Address))
	defer clear(value)
	if err != nil {
		return err
	}
	if version == 0 {
		return errNoKey
	}
	record, err := decodeKey(value)
	defer record.wipe()
	if err != nil {
		return err
	}
	return r.fetch(s, c.Address, record, c)
}

// pack returns the record of the key directory at sub.
func (d *Dir) pack(sub string, pending bool, brought string) (value []byte, err error) {
	dir := filepath.Join(d.path, sub)
	if _, err := os.Stat(filepath.Join(dir, offline.KeysFile)); err == nil {
		return nil, errApart
	}
	record := &keyRecord{Pending: pending, For: brought, Files: make(map[string][]byte)}
	if pending {
		if record.For, err = d.broughtFor(sub); err != nil {
			return nil, err
		}
	}
	defer record.wipe()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, entry := range entries {
		if entry.IsDir() || entry.Name() == customerFile {
			continue
		}
		content, err := readSecret(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		record.Files[entry.Name()] = content
		if size += len(content); size > maxKeyFiles {
			return nil, fmt.Errorf("its files have more than %d bytes", maxKeyFiles)
		}
	}
	locked.Do(func() { value, err = json.Marshal(record) })
	return value, err
}

func readSecret(path string) (content []byte, err error) {
	f, info, err := openfile.Regular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > maxKeyFiles {
		return nil, fmt.Errorf("%q: %d bytes are too many for a file of a key", filepath.Base(path), info.Size())
	}
	secret := locked.New(int(info.Size()))
	defer secret.Wipe()
	if _, err := secret.Fill(f); err != nil {
		return nil, err
	}
	secret.Use(func(b []byte) { content = bytes.Clone(b) })
	return content, nil
}

// decodeKey reads a record; one of nothing is empty.
func decodeKey(value []byte) (record *keyRecord, err error) {
	record = &keyRecord{}
	if len(value) > 0 {
		locked.Do(func() { err = json.Unmarshal(value, record) })
	}
	if err != nil {
		err = errors.New("it has a wrong form") // not what it says
	}
	if record.For != "" && !nameForm.MatchString(record.For) {
		err = ErrName
	}
	return record, err
}

// write writes the files into a directory.
func (k *keyRecord) write(dir string) error {
	for name, content := range k.Files {
		if filepath.Base(name) != name || name == "." || name == ".." || name == customerFile {
			return fmt.Errorf("%q is no name of a file of a key", name)
		}
		if err := durable.WriteNew(filepath.Join(dir, name), content, privateFile); err != nil {
			return err
		}
	}
	return nil
}

// wipe overwrites the files.
func (k *keyRecord) wipe() {
	for _, content := range k.Files {
		clear(content)
	}
}
