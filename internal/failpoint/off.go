//go:build !failpoints

package failpoint

import "time"

// Reach is called at a point.
func Reach(string) {}

// Now is the clock, nil for that of the machine.
func Now() func() time.Time { return nil }
