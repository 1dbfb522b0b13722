//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"syscall"
	"time"
)

var directory = os.Getenv(Directory)

// Reach is called at a point. It returns when the process was told to go on.
func Reach(point string) {
	if directory == "" {
		return
	}
	armed := filepath.Join(directory, point)
	if os.Rename(armed, armed+".reached") != nil {
		return // it is not armed, or somebody else reached it
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	time.Sleep(10 * time.Millisecond) // the signal stops all threads within this
}

// Now is the clock, nil for that of the machine.
func Now() func() time.Time {
	ahead, err := time.ParseDuration(os.Getenv(Skew))
	if err != nil {
		return nil
	}
	return func() time.Time { return time.Now().Add(ahead) }
}
