package strictmodes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/owner"
)

// What a grant allows, as in modes.
const (
	mayWrite = 0o2
	mayRead  = 0o4
)

// grant is what a file allows to others than its owner: to everybody, or to the
// user or the group of a number.
type grant struct {
	to    grantee
	id    int
	perms uint16
}

type grantee int

const (
	toEverybody grantee = iota
	toUser
	toGroup
)

// others says to whom else than root and u a file allows any of perms; empty if
// to nobody.
func (u User) others(info fs.FileInfo, path string, perms uint16) (string, error) {
	list, err := grants(info, func(b []byte) (int, error) { return unix.Getxattr(path, aclAttribute, b) })
	if err != nil {
		return "", fmt.Errorf("reading the access list of %s: %w", path, err)
	}
	for _, g := range list {
		if g.perms&perms == 0 {
			continue
		}
		if name := u.stranger(g, false); name != "" {
			return name, nil
		}
	}
	return "", nil
}

// stranger names whom a grant is to besides root and u; empty if nobody.
// joined says that u has to be in the group as well.
func (u User) stranger(g grant, joined bool) string {
	switch {
	case g.to == toGroup:
		return u.groupStranger(g.id, joined)
	case g.to == toEverybody:
		return "everybody"
	case !u.trusts(g.id):
		return "user " + owner.Name(g.id)
	}
	return ""
}

// grants returns what the mode of a file grants to others than its owner, or its
// access list if it has one, which read reads. The mode then shows the most that
// the list grants to anyone but everybody.
func grants(info fs.FileInfo, read func([]byte) (int, error)) ([]grant, error) {
	mode, group := uint16(info.Mode().Perm()), int(info.Sys().(*syscall.Stat_t).Gid)
	byMode := []grant{{toGroup, group, mode >> 3 & 7}, {toEverybody, 0, mode & 7}}
	if mode>>3&7 == 0 {
		return byMode, nil
	}
	list := make([]byte, maxACL)
	n, err := read(list)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return byMode, nil
	}
	if err != nil {
		return nil, err
	}
	return parseACL(list[:n], group)
}

// A POSIX access list as an extended attribute (linux/posix_acl_xattr.h): a
// version, then entries of tag, permissions and number, all little-endian.
const (
	aclAttribute = "system.posix_acl_access"
	aclVersion   = 2
	aclHeader    = 4
	aclEntry     = 8
	maxACL       = 4096 // bytes

	aclUserObject  = 0x01
	aclUser        = 0x02
	aclGroupObject = 0x04
	aclGroup       = 0x08
	aclMask        = 0x10
	aclOther       = 0x20
)

var errACL = errors.New("malformed")

// parseACL returns what an access list grants to others than the owner of a
// file, whose group is given.
func parseACL(list []byte, group int) ([]grant, error) {
	if len(list) < aclHeader || binary.LittleEndian.Uint32(list) != aclVersion || len(list)%aclEntry != aclHeader {
		return nil, errACL
	}
	mask := uint16(7)
	var out []grant
	for rest := list[aclHeader:]; len(rest) > 0; rest = rest[aclEntry:] {
		tag, perms := binary.LittleEndian.Uint16(rest), binary.LittleEndian.Uint16(rest[2:])&7
		id := int(binary.LittleEndian.Uint32(rest[4:]))
		switch tag {
		case aclUserObject:
		case aclUser:
			out = append(out, grant{toUser, id, perms})
		case aclGroupObject:
			out = append(out, grant{toGroup, group, perms})
		case aclGroup:
			out = append(out, grant{toGroup, id, perms})
		case aclMask:
			mask = perms
		case aclOther:
			out = append(out, grant{toEverybody, 0, perms})
		default:
			return nil, errACL
		}
	}
	for i := range out {
		if out[i].to != toEverybody {
			out[i].perms &= mask
		}
	}
	return out, nil
}
