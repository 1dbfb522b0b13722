package health

import (
	"fmt"
	"strconv"
	"strings"
)

// defaultStatus is what HAProxy's httpchk accepts.
const defaultStatus = "200-399"

// MatchStatus reports whether an HTTP status is in a list such as "200", "2xx",
// "200-399" or "200,204,3xx"; an empty list stands for 200-399. The error says that
// the list is none, whatever the status.
func MatchStatus(list string, status int) (match bool, err error) {
	if list == "" {
		list = defaultStatus
	}
	for part := range strings.SplitSeq(list, ",") {
		from, to, err := statusRange(strings.TrimSpace(part))
		if err != nil {
			return false, err
		}
		match = match || from <= status && status <= to
	}
	return match, nil
}

// statusRange reads one part of a list.
func statusRange(part string) (from, to int, err error) {
	if class, found := strings.CutSuffix(strings.ToLower(part), "xx"); found {
		part = class + "00-" + class + "99"
	}
	first, last, found := strings.Cut(part, "-")
	if !found {
		last = first
	}
	low, errLow := strconv.ParseUint(first, 10, 16)
	high, errHigh := strconv.ParseUint(last, 10, 16)
	if errLow != nil || errHigh != nil || low < 100 || high > 599 || low > high {
		return 0, 0, fmt.Errorf(`reading an HTTP status %.40q: want "200", "2xx", "200-399", or several with commas`, part)
	}
	return int(low), int(high), nil
}
