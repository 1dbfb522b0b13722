package strictmodes

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"onionbalancer/internal/owner"
)

// What a grant allows, as in modes.
const (
	mayWrite = 0o2
	mayRead  = 0o4
)

// grant is the access that a file gives to others than its owner: to everybody, or to the
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

// others returns to whom other than root and u a file grants any of perms; empty if
// to no one.
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

// stranger names to whom a grant is besides root and u; empty if to no one.
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

// common are the names of groups that stand for everybody, whoever is listed.
var common = []string{"users", "nogroup", "nobody", "everyone"}

// groupStranger names who other than root and u is in a group; empty if no one.
// A group that no file of accounts knows, as in a container, is u's alone if u
// is in it.
func (u User) groupStranger(gid int, joined bool) string {
	mine := slices.Contains(u.Groups, gid)
	name, members := u.members(gid)
	switch {
	case slices.Contains(common, name):
		return "the group " + name
	case len(members) > 0:
		return "the group " + name + ", in which " + members[0] + " is"
	case !mine && (joined || name == ""):
		if name == "" {
			name = strconv.Itoa(gid)
		}
		return "the group " + name
	}
	return ""
}

// members returns the name of a group, its number if only users have it, and
// empty if no one has; and its members, except root and u.
func (u User) members(gid int) (name string, members []string) {
	number := strconv.Itoa(gid)
	trusted := map[string]bool{"": true}
	for _, f := range records(u.passwd, 4) { // name, password, user, group
		if uid, err := strconv.Atoi(f[2]); err == nil && u.trusts(uid) {
			trusted[f[0]] = true
		} else if f[3] == number {
			name, members = number, append(members, f[0])
		}
	}
	for _, f := range records(u.group, 4) { // name, password, group, members
		if f[2] != number {
			continue
		}
		name = f[0]
		for member := range strings.SplitSeq(f[3], ",") {
			if !trusted[member] {
				members = append(members, member)
			}
		}
	}
	return name, members
}

// records reads the lines of a file of accounts that have at least n fields. A
// file that cannot be read has none.
func records(path string, n int) (list [][]string) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Split(lines.Text(), ":"); len(fields) >= n {
			list = append(list, fields)
		}
	}
	return list
}
