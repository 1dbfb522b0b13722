package descriptor

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
)

// secondLayer is the parsed plaintext of the second layer (rend-spec-v3,
// section 2.5.2).
type secondLayer struct {
	contents Contents // without introduction points
	points   []placedPoint
	dropped  []*ParseError // of damaged points, at most maxDropped

	section introSection // the point that is being read, if inPoint
	inPoint bool
}

// placedPoint is an introduction point and the line at which it begins.
type placedPoint struct {
	IntroductionPoint
	line int
}

// secondGrammar holds for the whole text: its lines may stand after and even
// among the introduction points, as they may for tor.
var secondGrammar = grammar[secondLayer]{
	first: kwCreate2,
	rules: []rule[secondLayer]{
		{keyword: kwCreate2, required: true, take: (*secondLayer).takeCreate2},
		{keyword: kwIntroAuth, take: (*secondLayer).takeIntroAuth},
		{keyword: kwSingleOnion, take: (*secondLayer).takeSingleOnion},
		{keyword: kwFlowControl, take: (*secondLayer).takeFlowControl},
		{keyword: kwPowParams, repeats: true, take: (*secondLayer).takePow},
		{keyword: kwCAA, repeats: true, take: (*secondLayer).takeCAA},
	},
	other: (*secondLayer).takeOther,
}

// parseSecond reads the plaintext of the second layer. A fault within an
// introduction point is kept with it, and is no fault of the layer.
func parseSecond(text []byte) (*secondLayer, error) {
	points := bytes.Count(text, []byte("\n"+kwIntroPoint+" "))
	l := &secondLayer{points: make([]placedPoint, 0, min(points, MaxIntroductionPoints))}
	if err := secondGrammar.parse(&scanner{layer: LayerSecond, text: text}, l); err != nil {
		return nil, err
	}
	l.endSection()
	return l, nil
}

func (l *secondLayer) takeCreate2(it *item) error {
	formats, err := it.firstArgs()
	if err != nil {
		return err
	}
	ntor := false
	for {
		var word []byte
		if word, formats = cutArg(formats); word == nil {
			break
		}
		n, err := parseNumber(word, 1<<16-1)
		if err != nil {
			return err
		}
		ntor = ntor || n == ntorFormat
		l.contents.Create2Formats = append(l.contents.Create2Formats, int(n))
	}
	if !ntor {
		return fmt.Errorf("does not offer ntor (%d)", ntorFormat)
	}
	return nil
}

func (l *secondLayer) takeIntroAuth(it *item) error {
	args, err := it.firstArgs()
	if err != nil {
		return err
	}
	known := false
	words, err := splitArgs(args)
	if err != nil {
		return err
	}
	for _, word := range words {
		known = known || word == introAuthWord
		l.contents.IntroAuthRequired = append(l.contents.IntroAuthRequired, word)
	}
	if !known {
		return fmt.Errorf("does not offer %q", introAuthWord)
	}
	return nil
}

func (l *secondLayer) takeSingleOnion(it *item) error {
	l.contents.SingleOnion = true
	_, err := it.firstArgs()
	return err
}

func (l *secondLayer) takeFlowControl(it *item) error {
	var versions, inc []byte
	if _, err := it.firstArgs(&versions, &inc); err != nil {
		return err
	}
	n, err := parseNumber(inc, 255)
	if err != nil {
		return err
	}
	f := FlowControl{Versions: string(versions), SendmeInc: uint8(n)}
	l.contents.FlowControl = &f
	return f.check()
}

func (l *secondLayer) takePow(it *item) error {
	var scheme, seed, effort, expires []byte
	args, err := it.firstArgs(&scheme)
	if err != nil {
		return err
	}
	if len(l.contents.PowParams) == maxWords {
		return errTooMany
	}
	p := PowParams{Scheme: string(scheme)}
	if p.Scheme != powScheme {
		words, err := splitArgs(args)
		if err != nil {
			return err
		}
		p.Other = strings.Join(words, " ")
		l.contents.PowParams = append(l.contents.PowParams, p)
		return nil
	}
	for _, q := range l.contents.PowParams {
		if q.Scheme == powScheme {
			return errTwice
		}
	}
	if _, err := it.firstArgs(&scheme, &seed, &effort, &expires); err != nil {
		return err
	}
	if err := decodeValue(p.Seed[:], seed); err != nil {
		return err
	}
	n, err := parseNumber(effort, 1<<32-1)
	if err != nil {
		return err
	}
	p.Effort = uint32(n)
	if p.Expires, err = time.Parse(powTime, string(expires)); err != nil || p.Expires.Unix() < 0 {
		return errors.New("malformed expiry")
	}
	l.contents.PowParams = append(l.contents.PowParams, p)
	return nil
}

// takeCAA passes over a record that is malformed or one too many: clients ignore
// them all, and the service is as reachable with them.
func (l *secondLayer) takeCAA(it *item) error {
	if r, err := ParseCAA(string(it.args)); err == nil && it.label == nil && len(l.contents.CAA) < maxWords {
		l.contents.CAA = append(l.contents.CAA, r)
	}
	return it.checkUnknown()
}

// takeOther begins an introduction point, or gives the line to the last one.
// Like tor it begins one at the very characters "introduction-point ".
func (l *secondLayer) takeOther(it *item) error {
	if it.keyword == kwIntroPoint && !it.opt && it.args != nil {
		l.endSection()
		l.section, l.inPoint = introSection{line: it.line}, true
	}
	// tor reads every object of the layer before it looks at single points.
	if err := it.checkUnknown(); err != nil {
		return err
	}
	if l.inPoint {
		l.section.take(it)
	}
	return nil
}

// endSection keeps the point that was being read, or what is wrong with it.
func (l *secondLayer) endSection() {
	if !l.inPoint {
		return
	}
	l.inPoint = false
	p := &l.section
	if p.finish(); p.fault == nil {
		l.points = append(l.points, placedPoint{p.point, p.line})
	} else {
		l.drop(p.fault)
	}
}

func (l *secondLayer) drop(fault *ParseError) {
	if len(l.dropped) < maxDropped {
		l.dropped = append(l.dropped, fault)
	}
}
