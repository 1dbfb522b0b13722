package descriptor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// check refuses what would make a client refuse the whole descriptor.
func (c *Contents) check() error {
	if n := len(c.IntroductionPoints); n > MaxIntroductionPoints {
		return fmt.Errorf("%d introduction points, clients take at most %d", n, MaxIntroductionPoints)
	}
	if len(c.Create2Formats) > 0 && !slices.Contains(c.Create2Formats, ntorFormat) {
		return fmt.Errorf("%s without ntor (%d)", kwCreate2, ntorFormat)
	}
	for _, f := range c.Create2Formats {
		if f < 0 || f > 1<<16-1 {
			return fmt.Errorf("%s: %d is no handshake type", kwCreate2, f)
		}
	}
	if len(c.IntroAuthRequired) > 0 && c.IntroAuthRequired[0] != introAuthWord {
		return fmt.Errorf("%s does not begin with %q", kwIntroAuth, introAuthWord)
	}
	if len(c.IntroAuthRequired) > maxWords {
		return fmt.Errorf("%s: %w", kwIntroAuth, errTooMany)
	}
	for _, word := range c.IntroAuthRequired {
		if !isWord(word) {
			return fmt.Errorf("%s: %q is no single word", kwIntroAuth, word)
		}
	}
	if f := c.FlowControl; f != nil {
		if err := f.check(); err != nil {
			return fmt.Errorf("%s: %w", kwFlowControl, err)
		}
	}
	if err := c.checkCAA(); err != nil {
		return fmt.Errorf("%s: %w", kwCAA, err)
	}
	return c.checkPow()
}

func (c *Contents) checkPow() error {
	if len(c.PowParams) > maxWords {
		return fmt.Errorf("%s: %w", kwPowParams, errTooMany)
	}
	v1 := 0
	for _, p := range c.PowParams {
		if p.Scheme == powScheme {
			v1++
			if y := p.Expires.UTC().Year(); y < 1970 || y > 9999 {
				return fmt.Errorf("%s: expiry does not fit", kwPowParams)
			}
		} else if !isWord(p.Scheme) || !areWords(p.Other) {
			return fmt.Errorf("%s: malformed", kwPowParams)
		}
	}
	if v1 > 1 {
		return fmt.Errorf("%s of scheme %s more than once", kwPowParams, powScheme)
	}
	return nil
}

// isWord reports whether s can stand as one argument.
func isWord(s string) bool { return s != "" && !strings.ContainsAny(s, " \n\x00") }

// areWords reports whether s is empty or arguments with a blank between each.
func areWords(s string) bool {
	words := strings.Split(s, " ")
	return s == "" || len(words) <= maxWords && !slices.ContainsFunc(words, func(w string) bool { return !isWord(w) })
}

// check refuses what is no list of versions or would never send a SENDME.
func (f *FlowControl) check() error {
	if f.SendmeInc == 0 {
		return errors.New("a SENDME for every 0 cells")
	}
	if f.Versions == "" || strings.Trim(f.Versions, "0123456789-,") != "" {
		return errors.New("not a list of versions")
	}
	return nil
}
