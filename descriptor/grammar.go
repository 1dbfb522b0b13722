package descriptor

import (
	"errors"
	"fmt"
)

// grammar says which lines a text of type T must and may hold.
type grammar[T any] struct {
	first string // keyword of the first line
	last  string // keyword of the last line; empty if any may be the last
	rules []rule[T]
	// other takes the lines that no rule is for; nil passes over them.
	other func(*T, *item) error
}

// rule is about the lines of one keyword. take reads the line into a T.
type rule[T any] struct {
	keyword  string
	required bool
	repeats  bool
	take     func(*T, *item) error
}

// parse reads all lines of s into v. Its errors are of type *ParseError.
func (g *grammar[T]) parse(s *scanner, v *T) error {
	seen := 0
	var it item
	for n := 0; ; n++ {
		next, ok, err := s.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		it = next
		if n == 0 && it.keyword != g.first {
			return s.fail(it, fmt.Errorf("the first line is not %q", g.first))
		}
		if err := g.take(v, &it, &seen); err != nil {
			return s.fail(it, err)
		}
	}
	for i := range g.rules {
		if g.rules[i].required && seen&(1<<i) == 0 {
			return s.missing(g.rules[i].keyword)
		}
	}
	if g.last != "" && it.keyword != g.last {
		return s.fail(it, fmt.Errorf("the last line is not %q", g.last))
	}
	return nil
}

func (g *grammar[T]) take(v *T, it *item, seen *int) error {
	for i := range g.rules {
		r := &g.rules[i]
		if r.keyword != it.keyword {
			continue
		}
		if *seen&(1<<i) != 0 && !r.repeats {
			return errTwice
		}
		*seen |= 1 << i
		return r.take(v, it)
	}
	if g.other != nil {
		return g.other(v, it)
	}
	return it.checkUnknown()
}

var (
	errMissing = errors.New("missing")
	errTwice   = errors.New("appears twice")
	errArgs    = errors.New("wrong number of arguments")
	errObject  = errors.New("wrong object, or none, after the line")
)

// exactArgs fills out with the arguments of it, which must be as many. No
// object may follow.
func (it *item) exactArgs(out ...*[]byte) error {
	rest, err := it.firstArgs(out...)
	if err != nil {
		return err
	}
	if more, _ := cutArg(rest); more != nil {
		return errArgs
	}
	return nil
}

// firstArgs fills out with the first arguments of it and returns the rest. No
// object may follow.
func (it *item) firstArgs(out ...*[]byte) (rest []byte, err error) {
	if it.label != nil {
		return nil, errObject
	}
	rest = it.args
	for _, p := range out {
		if *p, rest = cutArg(rest); *p == nil {
			return nil, errArgs
		}
	}
	return rest, nil
}

// onlyObject returns the decoded object of a line without arguments.
func (it *item) onlyObject(label string) ([]byte, error) {
	if more, _ := cutArg(it.args); more != nil {
		return nil, errArgs
	}
	return it.decodeObject(label)
}

// decodeObject returns the decoded object, which must carry the given label.
func (it *item) decodeObject(label string) ([]byte, error) {
	if string(it.label) != label {
		return nil, errObject
	}
	if it.decoded != nil {
		return it.decoded, nil
	}
	return decodeBase64(it.object)
}

// checkUnknown checks what must hold of a line that means nothing to us: the
// object after it, if there is one, is base64.
func (it *item) checkUnknown() (err error) {
	if it.label != nil {
		it.decoded, err = decodeBase64(it.object)
	}
	return err
}
