package openfile

import (
	"io/fs"
	"syscall"
)

// Stamp tells whether a file is unchanged since it was last checked. It
// says nothing about the content. Stamps are compared by ==.
type Stamp struct {
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Changed int64  `json:"changed"` // its modification time, in nanoseconds since 1970
}

// StampOf returns the stamp of info.
func StampOf(info fs.FileInfo) Stamp {
	s := Stamp{Size: info.Size(), Changed: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Device, s.Inode = uint64(stat.Dev), stat.Ino
	}
	return s
}
