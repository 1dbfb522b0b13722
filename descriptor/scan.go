package descriptor

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
)

// The keywords of the outer wrapper.
const (
	kwDescriptor     = "hs-descriptor"
	kwLifetime       = "descriptor-lifetime"
	kwSigningCert    = "descriptor-signing-key-cert"
	kwRevision       = "revision-counter"
	kwSuperencrypted = "superencrypted"
	kwSignature      = "signature"
)

// The keywords of the first layer.
const (
	kwAuthType      = "desc-auth-type"
	kwAuthEphemeral = "desc-auth-ephemeral-key"
	kwAuthClient    = "auth-client"
	kwEncrypted     = "encrypted"
	kwCAACritical   = "caa-critical"
)

// The keywords of the second layer, introduction points aside.
const (
	kwCreate2     = "create2-formats"
	kwIntroAuth   = "intro-auth-required"
	kwSingleOnion = "single-onion-service"
	kwFlowControl = "flow-control"
	kwPowParams   = "pow-params"
	kwCAA         = "caa"
)

// The keywords of an introduction point.
const (
	kwIntroPoint = "introduction-point"
	kwOnionKey   = "onion-key"
	kwAuthKey    = "auth-key"
	kwEncKey     = "enc-key"
	kwEncCert    = "enc-key-cert"
	kwLegacyKey  = "legacy-key"
	kwLegacyCert = "legacy-key-cert"
)

// The labels of objects.
const (
	labelCert      = "ED25519 CERT"
	labelMessage   = "MESSAGE"
	labelLegacyKey = "RSA PUBLIC KEY"
	labelCrossCert = "CROSSCERT"
)

// Words that stand as arguments.
const (
	versionWord   = "3"
	authTypeWord  = "x25519"
	ntorWord      = "ntor"
	introAuthWord = "ed25519"
	ntorFormat    = 2
)

const signaturePrefix = "Tor onion service descriptor sig v3"

var keywords = func() map[string]string {
	m := make(map[string]string)
	for _, k := range []string{
		kwDescriptor, kwLifetime, kwSigningCert, kwRevision, kwSuperencrypted, kwSignature,
		kwAuthType, kwAuthEphemeral, kwAuthClient, kwEncrypted, kwCAACritical,
		kwCreate2, kwIntroAuth, kwSingleOnion, kwFlowControl, kwPowParams, kwCAA,
		kwIntroPoint, kwOnionKey, kwAuthKey, kwEncKey, kwEncCert, kwLegacyKey, kwLegacyCert,
	} {
		m[k] = k
	}
	return m
}()

var (
	objectBegin  = []byte("-----BEGIN ")
	objectEnd    = []byte("-----END ")
	objectDashes = []byte("-----")
)

// base64Raw decodes the base64 of values and objects in a descriptor,
// its padding cut off. Unused bits must be zero.
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

// maxKeyword is longer than every known keyword, and limits the length of unknown
// ones in errors.
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

// maxWords limits the lists of words, and of lines, far above real ones.
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

// checkUnknown checks an unknown line: only that the
// object after it, if there is one, is base64.
func (it *item) checkUnknown() (err error) {
	if it.label != nil {
		it.decoded, err = decodeBase64(it.object)
	}
	return err
}
