package main

import "golang.org/x/sys/unix"

// protectMemory keeps keys out of core images and away from debuggers of the
// same user. Best effort: a kernel that refuses leaves things as they were.
func protectMemory() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}
