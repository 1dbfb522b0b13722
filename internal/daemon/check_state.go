package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"onionbalancer/internal/shell"
	"onionbalancer/internal/state"
	"onionbalancer/internal/strictmodes"
)

// checkStored looks at what is stored in the state directory: whether it can be
// read, and by whom.
func (c *checker) checkStored() {
	path := filepath.Join(c.cfg.StateDir, state.File)
	what := "stored state " + path
	c.checkStoredModes(what, path)
	db, err := state.OpenReadOnly(c.cfg.StateDir, slog.New(slog.DiscardHandler))
	if err == nil {
		err = db.Damage()
	}
	switch {
	case err == nil:
		c.ok(what, "whole")
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, state.ErrNewer):
		c.fail(what, state.NewerFix, err)
	case errors.Is(err, state.ErrDamaged):
		c.warn(what, "restore it from a backup that is at most a few hours old, or let balancer put it aside and go on with what is whole", "%v", err)
	default:
		c.fail(what, "see that the user that balancer runs as can read it", err)
	}
}

// checkStoredModes warns of a store that others than the balancer's user can open.
// Who changes it can have us fail, and no more.
func (c *checker) checkStoredModes(what, path string) {
	info, err := os.Stat(path)
	if err != nil {
		return // it is not there, or the next check tells
	}
	user := intendedUser(c.cfg)
	if owner, err := strictmodes.Owner(path); err == nil && owner.UID != user.UID {
		c.warn(what, "see that it belongs to the user that balancer runs as, like state_dir", "belongs to user %d, and balancer runs as user %d", owner.UID, user.UID)
	}
	if info.Mode().Perm()&0o077 != 0 {
		c.warn(what, "chmod 600 "+shell.Quote(path), "others can open it: its mode is %s", info.Mode())
	}
}
