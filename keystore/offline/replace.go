package offline

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"onionbalancer/internal/durable"
)

// replacement is a new version of a file, written and not yet in its place.
type replacement struct {
	path    string
	pending *renameio.PendingFile
}

// stage writes content beside path, readable by us alone.
func stage(path string, content []byte) (*replacement, error) {
	pending, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(privateFile))
	if err != nil {
		return nil, err
	}
	_, err = pending.Write(content)
	if err == nil {
		err = pending.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, pending.Cleanup())
	}
	return &replacement{path, pending}, nil
}

// drop forgets a replacement that was not committed.
func (r *replacement) drop() { _ = r.pending.Cleanup() }

// commit puts the new version in place of the old one, and syncs that.
func (r *replacement) commit() error {
	if err := r.pending.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(r.path))
}

// wipingCommit does as commit does and then, when the new version is safe,
// overwrites the old one, as far as the disk and its file system let one
// overwrite anything.
func (r *replacement) wipingCommit() error {
	old, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, r.pending.Cleanup())
	}
	if old != nil {
		defer old.Close()
	}
	if err := r.commit(); err != nil || old == nil {
		return err
	}
	info, err := old.Stat()
	if err != nil {
		return err
	}
	_, err = old.WriteAt(make([]byte, info.Size()), 0)
	return errors.Join(err, old.Sync())
}
