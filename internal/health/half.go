package health

import (
	"cmp"
	"slices"
	"time"
)

// Standing is what speaks for and against an instance of a service that has
// introduction points and that the operator has not taken out.
type Standing struct {
	Out     bool      // its checks want it out
	Passing bool      // though it passes them again, and only waits for its hold to end
	Doubt   bool      // it would be out, if our own tor were not as likely a cause
	Since   time.Time // of Out
}

// TakeOut says which instances of a service get no visitors: those whose checks
// want them out, but no more than half. Of more, those that fail go before those
// that pass again, and the first to fail before later ones. panic reports that some
// stay in use against what checks say.
func TakeOut(list []Standing) (out []bool, panic bool) {
	out = make([]bool, len(list))
	var order []int
	for n, s := range list {
		panic = panic || s.Doubt
		if s.Out {
			order = append(order, n)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if list[a].Passing != list[b].Passing {
			return map[bool]int{false: -1, true: 1}[list[a].Passing]
		}
		return cmp.Compare(list[a].Since.UnixNano(), list[b].Since.UnixNano())
	})
	most := len(list) / 2
	for _, n := range order[:min(len(order), most)] {
		out[n] = true
	}
	// One that only waits for its hold to end is no cause for panic.
	for _, n := range order[min(len(order), most):] {
		panic = panic || !list[n].Passing
	}
	return out, panic
}
