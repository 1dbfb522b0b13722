package hosting

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/locked"
	"onionbalancer/internal/openfile"
	"onionbalancer/internal/owner"
	"onionbalancer/keystore"
	"onionbalancer/keystore/pkcs11uri"
)

// The files by which key directories are known, beside offline.KeysFile.
const (
	torKey    = "hs_ed25519_secret_key"
	artiKey   = "ks_hs_id.ed25519_expanded_private"
	sealedKey = "key.sealed"
)

// customerFile has the name of the customer that a pending key was brought for. It means
// nothing once the key is at another place.
const customerFile = "customer"

// makingDir is a key directory that is being written.
const makingDir = ".making"

const (
	privateFile = 0o600
	maxName     = 1 << 10 // 1 KiB
	maxKeyFile  = 1 << 20 // 1 MiB
)

// Reference returns what keystore.Open takes for the key in sub, a directory below that of the
// shard. token is the shard's URI of the key that seals; empty if there is none.
func (d *Dir) Reference(sub, token string) (string, error) {
	path := filepath.Join(d.path, sub)
	sealed := filepath.Join(path, sealedKey)
	if _, err := os.Stat(sealed); errors.Is(err, fs.ErrNotExist) {
		return path, nil
	} else if err != nil {
		return "", fmt.Errorf("opening key %q: %w", path, owner.Explain(errors.Unwrap(err), path))
	}
	if token == "" {
		return "", fmt.Errorf("opening key %q: it is sealed, and the shard has no token = \"pkcs11:…\" that says by which key", sealed)
	}
	uri, err := pkcs11uri.Parse(token)
	if err != nil {
		return "", fmt.Errorf("opening key %q: %w", sealed, err)
	}
	uri.Sealed = sealed
	return uri.String(), nil
}

// Address returns the onion address of the key in sub. It asks no token.
func (d *Dir) Address(sub string) (descriptor.Address, error) {
	path := filepath.Join(d.path, sub)
	sealed := filepath.Join(path, sealedKey)
	if _, err := os.Stat(sealed); err == nil {
		file, err := keystore.ReadSealed(sealed)
		if err != nil {
			return descriptor.Address{}, err
		}
		return file.Address(), nil
	}
	key, err := keystore.Open(path)
	if err != nil {
		return descriptor.Address{}, err
	}
	return key.Address(), key.Close()
}

// addresses returns those of the keys in several directories below that of the shard, or why
// there is none, in the order of the directories.
func (d *Dir) addresses(subs []string) ([]descriptor.Address, []error) {
	list, errs := make([]descriptor.Address, len(subs)), make([]error, len(subs))
	var workers errgroup.Group
	workers.SetLimit(8)
	for n, sub := range subs {
		workers.Go(func() error {
			list[n], errs[n] = d.Address(sub)
			return nil
		})
	}
	_ = workers.Wait()
	return list, errs
}

// NewKey makes a pending key, with the given source of randomness.
func (d *Dir) NewKey(random io.Reader) (descriptor.Address, error) {
	fresh, err := keystore.New(random)
	if err != nil {
		return descriptor.Address{}, err
	}
	defer fresh.Wipe()
	return fresh.Address(), d.makePending(fresh.Address(), fresh.WriteTor)
}

// NewSealed makes n pending keys that are on no disk in the clear: token, the URI of a key,
// seals them together, so that it opens many of them at once. All of them are made, or none.
func (d *Dir) NewSealed(ctx context.Context, token string, n int) error {
	uri, err := pkcs11uri.Parse(token)
	if err != nil {
		return err
	}
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	pending := filepath.Join(d.path, pendingDir)
	made := filepath.Join(pending, makingDir)
	if err := os.RemoveAll(made); err != nil { // of one who was killed; nobody else is here
		return fmt.Errorf("making pending keys: %w", owner.Explain(err, d.path))
	}
	addresses, err := keystore.SealNew(ctx, uri, n, func(a descriptor.Address) string { return filepath.Join(made, a.Label(), sealedKey) })
	for _, a := range addresses {
		err = errors.Join(err, os.Rename(filepath.Join(made, a.Label()), filepath.Join(pending, a.Label())))
	}
	if err = errors.Join(err, os.RemoveAll(made)); err != nil {
		return fmt.Errorf("making pending keys: %w", owner.Explain(err, d.path))
	}
	return errors.Join(durable.SyncDir(pending), durable.SyncDir(d.path))
}

// Bring copies a key directory to the pending ones, for the customer called name, who has
// it when the replicas know its address (Install). The source stays as it is. The error wraps
// fs.ErrExist if the key is pending already.
func (d *Dir) Bring(source string, a descriptor.Address, name string) error {
	return d.bring(a, name, func(dir string) error { return copyFiles(source, dir) })
}

// BringSealed is Bring for a key on disk which by is to seal.
func (d *Dir) BringSealed(ctx context.Context, source string, by *keystore.Sealer, name string) error {
	key, err := keystore.Load(ctx, source)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return d.bring(key.Address(), name, func(dir string) error {
		_, err := by.Seal(ctx, key, filepath.Join(dir, sealedKey))
		return err
	})
}

func (d *Dir) bring(a descriptor.Address, name string, write func(dir string) error) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%q: %w", name, ErrName)
	}
	return d.makePending(a, func(dir string) error {
		if err := write(dir); err != nil {
			return err
		}
		return durable.WriteNew(filepath.Join(dir, customerFile), []byte(name+"\n"), privateFile)
	})
}

// Brought returns the names of the customers that pending keys were brought for.
func (d *Dir) Brought() (map[descriptor.Address]string, error) {
	pending, err := d.Pending()
	if err != nil {
		return nil, err
	}
	names := make(map[descriptor.Address]string)
	for _, a := range pending {
		name, err := d.broughtFor(filepath.Join(pendingDir, a.Label()))
		if err != nil {
			return nil, err
		}
		if name != "" {
			names[a] = name
		}
	}
	return names, nil
}

// broughtFor returns the name of the customer that the key in sub was brought for; empty if for
// nobody.
func (d *Dir) broughtFor(sub string) (string, error) {
	f, _, err := openfile.Regular(filepath.Join(d.path, sub, customerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxName))
	name := strings.TrimSpace(string(text))
	if err == nil && !nameForm.MatchString(name) {
		err = fmt.Errorf("%s: %q: %w", f.Name(), name, ErrName)
	}
	return name, err
}

// makePending has a key directory written and makes it that of a pending key, whole or not at
// all.
func (d *Dir) makePending(a descriptor.Address, write func(dir string) error) error {
	if err := d.make(filepath.Join(pendingDir, a.Label()), write); err != nil {
		return fmt.Errorf("making a pending key: %w", err)
	}
	return nil
}

// make has a key directory written and puts it at sub, whole or not at all. The error wraps
// fs.ErrExist if something is there.
func (d *Dir) make(sub string, write func(dir string) error) error {
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	target := filepath.Join(d.path, sub)
	if _, err := os.Lstat(target); err == nil {
		return &fs.PathError{Op: "create", Path: target, Err: fs.ErrExist}
	}
	pending := filepath.Join(d.path, pendingDir)
	made := filepath.Join(pending, makingDir)
	err = os.RemoveAll(made) // of one who was killed; nobody else is here
	if err == nil {
		err = errors.Join(os.MkdirAll(made, privateDir), os.MkdirAll(filepath.Dir(target), privateDir))
	}
	if err == nil {
		err = write(made)
	}
	if err == nil {
		err = errors.Join(durable.SyncDir(made), os.Rename(made, target))
	}
	if err != nil {
		return errors.Join(owner.Explain(err, d.path), os.RemoveAll(made))
	}
	return errors.Join(durable.SyncDir(filepath.Dir(target)), durable.SyncDir(pending), durable.SyncDir(d.path))
}

// copyFiles copies the files of a key directory, but not the directories in it.
func copyFiles(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() || entry.Name() == customerFile {
			continue
		}
		if err := copyFile(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	f, info, err := openfile.Regular(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if info.Size() > maxKeyFile {
		return fmt.Errorf("%s: %d bytes are too many for a file of a key", from, info.Size())
	}
	content := locked.New(int(info.Size()))
	defer content.Wipe()
	if _, err := content.Fill(f); err != nil {
		return err
	}
	content.Use(func(content []byte) { err = durable.WriteNew(to, content, privateFile) })
	return err
}
