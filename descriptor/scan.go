package descriptor

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
)

var (
	objectBegin  = []byte("-----BEGIN ")
	objectEnd    = []byte("-----END ")
	objectDashes = []byte("-----")
)

// base64Raw decodes what every value and object in a descriptor is written in,
// its padding cut off. Bits that no byte takes must be zero.
var base64Raw = base64.RawStdEncoding.Strict()

// item is one keyword line with the object that may follow it (dir-spec,
// section 1.2). Its slices alias the text.
type item struct {
	line    int    // from 1
	start   int    // offset of the line in the text
	keyword string // aliases nothing when known, see intern
	args    []byte // the rest of the line after one blank
	opt     bool   // an obsolete "opt " stood before the keyword
	label   []byte // of the object, nil if there is none
	object  []byte // base64 lines, each with its newline
	decoded []byte // the object decoded, if that was done
}

// scanner cuts the text of one layer into items, copying nothing.
type scanner struct {
	layer Layer
	text  []byte
	pos   int
	line  int // lines cut off so far
}

// next returns the next item; ok is false at the end of the text.
func (s *scanner) next() (it item, ok bool, err error) {
	for s.pos < len(s.text) {
		it = item{line: s.line + 1, start: s.pos}
		line := s.cutLine()
		if len(line) == 0 {
			continue
		}
		word, args, _ := bytes.Cut(line, []byte{' '})
		if string(word) == "opt" {
			it.opt = true
			word, args, _ = bytes.Cut(bytes.TrimLeft(args, " "), []byte{' '})
		}
		it.keyword, it.args = intern(word), args
		if word = line[:1]; word[0] == '@' || bytes.HasPrefix(line, objectBegin) {
			return it, false, s.fail(it, errors.New("no keyword line"))
		}
		return it, true, s.cutObject(&it)
	}
	return item{}, false, nil
}

// intern returns a keyword, without allocating for the known ones.
func intern(word []byte) string {
	if known, ok := keywords[string(word)]; ok {
		return known
	}
	return string(word[:min(len(word), maxKeyword)])
}

// maxKeyword is longer than every known keyword, and bounds what errors repeat
// of unknown ones.
const maxKeyword = 32

// cutLine returns the next line without its newline, which the last line of a
// text may lack.
func (s *scanner) cutLine() []byte {
	s.line++
	rest := s.text[s.pos:]
	if n := bytes.IndexByte(rest, '\n'); n >= 0 {
		s.pos += n + 1
		return rest[:n]
	}
	s.pos = len(s.text)
	return rest
}

// cutObject takes the object that follows it, if one does. Its base64 is
// checked only by who decodes it.
func (s *scanner) cutObject(it *item) error {
	if !bytes.HasPrefix(s.text[s.pos:], objectBegin) {
		return nil
	}
	begin := s.cutLine()
	label, ok := bytes.CutSuffix(begin[len(objectBegin):], objectDashes)
	if !ok || len(label) == 0 {
		return s.fail(*it, errors.New("the object's BEGIN line is malformed"))
	}
	object := s.text[s.pos:]
	end := indexLine(object, objectEnd)
	if end < 0 {
		return s.fail(*it, errors.New("the object has no END line"))
	}
	object = object[:end]
	s.pos += end
	s.line += bytes.Count(object, []byte{'\n'})
	rest, ok := bytes.CutSuffix(s.cutLine()[len(objectEnd):], objectDashes)
	if !ok || !bytes.Equal(rest, label) {
		return s.fail(*it, errors.New("the object's END line does not match its BEGIN line"))
	}
	it.label, it.object = label, object
	return nil
}

// indexLine returns where the first line of text begins that has the given
// prefix, or -1.
func indexLine(text, prefix []byte) int {
	for at := 0; ; at += len(prefix) {
		n := bytes.Index(text[at:], prefix)
		if n < 0 {
			return -1
		}
		if at += n; at == 0 || text[at-1] == '\n' {
			return at
		}
	}
}

func (s *scanner) fail(it item, err error) *ParseError {
	return &ParseError{Layer: s.layer, Line: it.line, Keyword: it.keyword, Err: err}
}

// missing is the error about a line that is not there.
func (s *scanner) missing(keyword string) *ParseError {
	return &ParseError{Layer: s.layer, Keyword: keyword, Err: errMissing}
}

// cutArg returns the first argument of args and the rest. Arguments are parted
// by one or more blanks; nil means that there is none left.
func cutArg(args []byte) (arg, rest []byte) {
	args = bytes.TrimLeft(args, " ")
	if len(args) == 0 {
		return nil, nil
	}
	arg, rest, _ = bytes.Cut(args, []byte{' '})
	return arg, rest
}

// maxWords bounds the lists of words, and of lines, that nobody makes long.
const maxWords = 32

var errTooMany = fmt.Errorf("more than %d of them", maxWords)

// splitArgs returns copies of all arguments.
func splitArgs(args []byte) (words []string, err error) {
	for {
		word, rest := cutArg(args)
		if word == nil {
			return words, nil
		}
		if len(words) == maxWords {
			return nil, errTooMany
		}
		words, args = append(words, string(word)), rest
	}
}

// trimPadding cuts the padding off, if it fills the text up to a multiple of four.
func trimPadding(text []byte) []byte {
	if len(text)%4 != 0 {
		return text
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte{'='}), []byte{'='})
}

// decodeValue decodes an argument of exactly len(dst) bytes, with or without
// padding.
func decodeValue(dst, text []byte) error {
	text = trimPadding(text)
	if len(text) != base64Raw.EncodedLen(len(dst)) {
		return fmt.Errorf("want %d bytes in base64", len(dst))
	}
	// The decoder writes no more than it decodes, which the length fixed.
	if n, err := base64Raw.Decode(dst, text); err != nil || n != len(dst) {
		return fmt.Errorf("want %d bytes in base64", len(dst))
	}
	return nil
}

// parseNumber reads a decimal number of at most limit, in its shortest form.
func parseNumber(text []byte, limit uint64) (uint64, error) {
	if len(text) == 0 || len(text) > 20 || (text[0] == '0' && len(text) > 1) {
		return 0, errors.New("not a number in plain decimal")
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || text[0] == '+' || n > limit {
		return 0, fmt.Errorf("not a number between 0 and %d", limit)
	}
	return n, nil
}
