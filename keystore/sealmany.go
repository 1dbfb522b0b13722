package keystore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/pkcs11uri"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// SealNew makes n new keys, which are never on a disk in the clear, and seals them by the
// key on a token that uri names, whose x-sealed is not used: each to a new file at the path
// that path returns for its address, in a directory that is made if it is missing. The files
// have one data key in common, so that the token wraps once for all of them, and later opens
// up to token.MaxBatch of them by one operation.
//
// It returns the addresses when all files are on the disk, and the token has certified by
// each. It never overwrites, and leaves nothing behind when it fails.
func SealNew(ctx context.Context, uri *pkcs11uri.URI, n int, path func(descriptor.Address) string) ([]descriptor.Address, error) {
	s, err := OpenSealer(ctx, uri)
	if err != nil {
		return nil, err
	}
	addresses, err := s.sealNew(ctx, n, path)
	return addresses, errors.Join(err, s.Close())
}

func (s *Sealer) sealNew(ctx context.Context, n int, path func(descriptor.Address) string) ([]descriptor.Address, error) {
	defer locked.CollectSoon()
	addresses, files := make([]descriptor.Address, n), make([]newFile, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(token.MaxBatch) // so that the token certifies by as many at once
	for i := range n {
		fresh, err := New(rand.Reader)
		if err != nil {
			group.Go(func() error { return err })
			break
		}
		addresses[i] = fresh.Address()
		files[i].path = path(fresh.Address())
		file, err := s.data.Seal(fresh.Identity(), time.Now(), rand.Reader)
		group.Go(func() error {
			defer fresh.Wipe()
			if err != nil {
				return err
			}
			return files[i].write(ctx, file, func(raw []byte) error { return certifiesAs(ctx, s.token, s.object, raw, fresh.Identity()) })
		})
	}
	err := group.Wait()
	if err == nil {
		err = syncParents(files)
	}
	if err != nil {
		return nil, errors.Join(err, removeAll(files))
	}
	return addresses, nil
}

// newFile is a sealed file that is being written, in a directory of its own perhaps.
type newFile struct {
	path          string
	made, madeDir bool
}

func (f *newFile) write(ctx context.Context, file *sealed.File, try func(raw []byte) error) error {
	if err := CheckNew(f.path); err != nil {
		return err
	}
	raw, err := file.Encode()
	if err != nil {
		return err
	}
	if err := try(raw); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(filepath.Dir(dir), privateDir); err != nil {
		return fmt.Errorf("writing sealed key: %w", err)
	}
	f.madeDir = os.Mkdir(dir, privateDir) == nil // WriteChecked says why not
	err = durable.WriteChecked(f.path, raw, func(written string) error {
		again, err := readSmall(written)
		if err == nil && !bytes.Equal(again, raw) {
			err = errors.New("what was read again is not what was written")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("writing sealed key: %w", err)
	}
	f.made = true
	return nil
}

// removeAll undoes write.
func removeAll(files []newFile) (err error) {
	for _, f := range files {
		if f.made {
			err = errors.Join(err, os.Remove(f.path))
		}
	}
	for _, f := range files {
		if f.madeDir {
			err = errors.Join(err, os.Remove(filepath.Dir(f.path)))
		}
	}
	return err
}

// syncParents makes the names of the files' directories durable.
func syncParents(files []newFile) (err error) {
	var dirs []string
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(filepath.Dir(f.path)))
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		err = errors.Join(err, durable.SyncDir(dir))
	}
	return err
}
