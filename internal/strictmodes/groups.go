package strictmodes

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
)

// common are the names of groups that stand for everybody, no matter who is listed.
var common = []string{"users", "nogroup", "nobody", "everyone"}

// groupStranger names who else than root and u is in a group; empty if nobody.
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
// empty if nobody has; and its members, but for root and u.
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
