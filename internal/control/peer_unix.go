//go:build unix && !linux

package control

import "os"

// listener returns the owner of the socket, as this system is not asked who
// listens.
func listener(conn socketConn) (uid int, err error) {
	info, err := os.Stat(conn.path)
	if err != nil {
		return 0, err
	}
	return owner(info), nil
}
