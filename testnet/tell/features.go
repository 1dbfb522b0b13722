package tell

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

// Value is what was measured: a number, or a word if that is not empty.
type Value struct {
	Word   string
	Number float64
}

// Features are what was measured of a sample, by name. Those of "outer" are seen by
// every HSDir; those of "slots" take several; the others, the address. What begins
// with "made" takes the secret of the revision counters. Nothing tells the time.
type Features map[string]Value

func (f Features) word(name string, value any) {
	f[name] = Value{Word: fmt.Sprintf("%q", fmt.Sprint(value))}
}
func (f Features) number(name string, n int) { f[name] = Value{Number: float64(n)} }

// Measure returns the features of a sample. The error says why it cannot be read at
// all: that is a tell of its own.
func Measure(s *Sample) (Features, error) {
	keys, err := s.Address.Keys(s.Period)
	if err != nil {
		return nil, fmt.Errorf("measuring a descriptor: %w", err)
	}
	read := make([]*reading, len(s.Bodies))
	for n, body := range s.Bodies {
		if read[n], err = newReading(body, keys); err != nil {
			return nil, fmt.Errorf("measuring a descriptor at HSDir %d: %w", n+1, err)
		}
	}
	f := make(Features)
	f.texts(read[0])
	f.points(read[0])
	f.times(s, read[0])
	f.slots(read)
	if s.Before != nil {
		before, err := newReading(s.Before, keys)
		if err != nil {
			return nil, fmt.Errorf("measuring an earlier version of a descriptor: %w", err)
		}
		f.versions(before, read[0])
	}
	if s.Other != nil {
		keys, err := s.Address.Keys(s.OtherPeriod)
		if err != nil {
			return nil, fmt.Errorf("measuring a descriptor: %w", err)
		}
		other, err := newReading(s.Other, keys)
		if err != nil {
			return nil, fmt.Errorf("measuring the other descriptor: %w", err)
		}
		f.pair(read[0], other)
	}
	return f, nil
}

// reading is a descriptor with its parts found.
type reading struct {
	layers
	body    []byte
	signing descriptor.Certificate
	clients []string // the auth-client lines
	points  []point
}

type point struct {
	text      string
	specs     []descriptor.LinkSpecifier
	onion     string
	auth, enc descriptor.Certificate
}

func newReading(body []byte, keys descriptor.PeriodKeys) (*reading, error) {
	r := &reading{body: body}
	var err error
	if r.layers, err = openLayers(body, keys); err != nil {
		return nil, err
	}
	if r.signing, err = certificate(r.outer, "descriptor-signing-key-cert"); err != nil {
		return nil, err
	}
	for line := range strings.Lines(r.first) {
		if strings.HasPrefix(line, "auth-client ") {
			r.clients = append(r.clients, line)
		}
	}
	parts := strings.Split(r.second, "\nintroduction-point ")
	for _, text := range parts[1:] {
		p, err := newPoint(text)
		if err != nil {
			return nil, err
		}
		r.points = append(r.points, p)
	}
	return r, nil
}

func newPoint(text string) (p point, err error) {
	p.text = text
	specs, _, _ := strings.Cut(text, "\n")
	raw, err := base64.StdEncoding.DecodeString(specs)
	if err != nil {
		return p, fmt.Errorf("link specifiers: %w", err)
	}
	for rest := raw[min(1, len(raw)):]; len(rest) > 1; {
		end := min(2+int(rest[1]), len(rest))
		p.specs = append(p.specs, descriptor.LinkSpecifier{Type: rest[0], Data: rest[2:end]})
		rest = rest[end:]
	}
	_, after, _ := strings.Cut(text, "\nonion-key ntor ")
	p.onion, _, _ = strings.Cut(after, "\n")
	if p.auth, err = certificate(text, "\nauth-key"); err != nil {
		return p, err
	}
	p.enc, err = certificate(text, "\nenc-key-cert")
	return p, err
}

// certificate reads the one that follows a keyword.
func certificate(text, keyword string) (descriptor.Certificate, error) {
	_, after, _ := strings.Cut(text, keyword+"\n-----BEGIN ED25519 CERT-----\n")
	object, _, _ := strings.Cut(after, "\n-----END")
	raw, err := base64.StdEncoding.DecodeString(object)
	if err != nil {
		return descriptor.Certificate{}, fmt.Errorf("%q: %w", keyword, err)
	}
	return descriptor.ParseCertificate(raw)
}

// size is how many bytes the descriptor has, without the digits of its counter, which
// tell the time.
func (r *reading) size() int { return len(r.body) - len(strconv.FormatUint(r.revision, 10)) }

// relay is the RSA identity, by which clients know a relay.
func (p *point) relay() string {
	for _, l := range p.specs {
		if l.Type == descriptor.LinkRSA {
			return string(l.Data)
		}
	}
	return ""
}

func (p *point) key() string { key := p.auth.Key(); return string(key[:]) }

// texts measures sizes and forms of the three texts.
func (f Features) texts(r *reading) {
	f.number("outer: bytes", r.size())
	f.word("outer: lines", shape(r.outer))
	f.word("outer: certificate", form(r.signing))
	f.number("first layer: bytes", len(r.first))
	f.number("first layer: padding", len(r.padding))
	f.word("first layer: padding is zeros", len(bytes.Trim(r.padding, "\x00")) == 0)
	f.word("first layer: lines", shape(r.first))
	f.number("first layer: clients", len(r.clients))
	f.word("first layer: clients sorted", slices.IsSorted(r.clients))
	f.number("first layer: clients twice", len(r.clients)-distinct(r.clients, func(line string) string { return line }))
	head, _, _ := strings.Cut(r.second, "\nintroduction-point ")
	f.number("second layer: bytes", len(r.second))
	f.word("second layer: head", head)
	for _, keyword := range []string{"create2-formats", "intro-auth-required", "single-onion-service", "flow-control", "pow-params", "caa"} {
		line := ""
		for l := range strings.Lines(head + "\n") {
			if strings.HasPrefix(l, keyword) {
				line += l
			}
		}
		f.word("second layer: "+keyword, line)
	}
}

// points measures the introduction points and their order.
func (f Features) points(r *reading) {
	f.number("points", len(r.points))
	for name, of := range map[string]func(*point) string{
		"lines":             func(p *point) string { return shape(p.text) },
		"specifiers":        func(p *point) string { return kinds(p.specs) },
		"auth certificates": func(p *point) string { return form(p.auth) },
		"enc certificates":  func(p *point) string { return form(p.enc) + fmt.Sprint(", sign ", p.enc.Key()[31]>>7) },
		"enc and auth": func(p *point) string {
			return fmt.Sprint("expiry ", p.auth.Expires().Equal(p.enc.Expires()), ", signer ", signer(p.auth) == signer(p.enc))
		},
	} {
		var all []string
		for n := range r.points {
			all = append(all, of(&r.points[n]))
		}
		f.word("points: "+name, strings.Join(all, "; "))
	}
	f.number("points: expiries", distinct(r.points, func(p point) time.Time { return p.auth.Expires() }))
	f.number("points: relays", distinct(r.points, func(p point) string { return p.relay() }))
	f.number("points: onion keys", distinct(r.points, func(p point) string { return p.onion }))
	f.word("points: signed by the signing key", !slices.ContainsFunc(r.points, func(p point) bool { return signer(p.auth) != r.signing.Key() }))
	f.word("points: order by key", order(r.points, func(p point) string { return p.key() }))
	f.word("points: order by relay", order(r.points, func(p point) string { return p.relay() }))
	f.word("points: order by enc key", order(r.points, func(p point) string { key := p.enc.Key(); return string(key[:]) }))
	f.word("points: order by expiry", order(r.points, func(p point) string { return p.auth.Expires().Format(time.RFC3339) }))
}

// times measures the certificates' expiries and the counter from the hour when the
// descriptor was made.
func (f Features) times(s *Sample, r *reading) {
	at, found := s.made(r.revision)
	f.word("made: the counter is of a moment", found)
	if !found {
		at = s.RunStart
	}
	hour := at.Truncate(time.Hour)
	f.word("made: certificate's hours", r.signing.Expires().Sub(hour).Hours())
	f.word("made: certificate's exact hours", fmt.Sprint(r.signing.Expires().Sub(at) > descriptor.CertLifetime+time.Hour, r.signing.Expires().Sub(at) < descriptor.CertLifetime))
	var hours []string
	for _, p := range r.points {
		hours = append(hours, fmt.Sprint(p.auth.Expires().Sub(hour).Hours()))
	}
	slices.Sort(hours)
	f.word("made: points' hours", slices.Compact(hours))
	f.word("outer: certificate's hours before a point's", pointsAfter(r))
}

func pointsAfter(r *reading) string {
	if len(r.points) == 0 {
		return "no point"
	}
	return fmt.Sprint(r.signing.Expires().Sub(r.points[0].auth.Expires()).Hours())
}

// slots measures in what the descriptor differs from HSDir to HSDir.
func (f Features) slots(read []*reading) {
	for name, of := range map[string]func(*reading) string{
		"bodies":                 func(r *reading) string { return string(r.body) },
		"sizes":                  func(r *reading) string { return fmt.Sprint(len(r.body)) },
		"counters":               func(r *reading) string { return fmt.Sprint(r.revision) },
		"certificates":           func(r *reading) string { return string(r.signing.Bytes()) },
		"certificates' expiries": func(r *reading) string { return r.signing.Expires().String() },
		"signing keys":           func(r *reading) string { return fmt.Sprint(r.signing.Key()) },
		"first salts":            func(r *reading) string { return string(r.firstSalt[:]) },
		"first layers":           func(r *reading) string { return r.first },
		"second salts":           func(r *reading) string { return string(r.secondSalt[:]) },
		"second layers":          func(r *reading) string { return r.second },
		"sets of points": func(r *reading) string {
			return fmt.Sprintf("%q", sorted(r.points, (*point).key))
		},
	} {
		f.word("slots: one of "+name, fmt.Sprint(distinct(read, of) == 1, distinct(read, of) == len(read)))
	}
}

// pair measures what the service's two descriptors have in common.
func (f Features) pair(r, other *reading) {
	common := func(of func(*point) string) int {
		mine, theirs := sorted(r.points, of), sorted(other.points, of)
		return len(slices.DeleteFunc(mine, func(v string) bool { return !slices.Contains(theirs, v) }))
	}
	f.number("pair: points in both", common((*point).key))
	f.number("pair: enc keys in both", common(func(p *point) string { key := p.enc.Key(); return string(key[:]) }))
	f.number("pair: relays in both", common((*point).relay))
	f.number("pair: more points", len(r.points)-len(other.points))
	f.word("pair: one signing key", r.signing.Key() == other.signing.Key())
	f.word("pair: one first layer", r.first == other.first)
	f.word("pair: one head", strings.HasPrefix(other.second, r.second[:strings.Index(r.second+"\nintro", "\nintro")]))
	f.number("pair: bytes more", r.size()-other.size())
}

// versions measures what stays from version to version.
func (f Features) versions(before, r *reading) {
	f.word("versions: one signing key", before.signing.Key() == r.signing.Key())
	f.word("versions: one first layer", before.first == r.first)
	f.word("versions: a higher counter", before.revision < r.revision)
	f.word("versions: an earlier expiry", r.signing.Expires().Before(before.signing.Expires()))
	f.word("versions: another certificate of one expiry", r.signing != before.signing && r.signing.Expires().Equal(before.signing.Expires()))
	f.word("versions: one salt", before.firstSalt == r.firstSalt || before.secondSalt == r.secondSalt)
	f.word("versions: one number of points", len(before.points) == len(r.points))
	f.word("versions: what stays keeps its order", slices.Equal(staying(before, r), staying(r, before)))
}

// staying are the keys of the points of r that other has, in their order.
func staying(r, other *reading) (keys []string) {
	theirs := sorted(other.points, (*point).key)
	for n := range r.points {
		if key := r.points[n].key(); slices.Contains(theirs, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// shape is a text without what is different in every one: the keywords, the lengths of
// what is base64, and whether it is padded.
func shape(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Split(line, " ")
		for n, word := range words {
			switch {
			case n > 0 && words[0] == "revision-counter":
				words[n] = "#"
			case n > 0 && words[0] == "auth-client", len(word) > 40 && !strings.HasPrefix(word, "-"), n == 0 && isBase64(word):
				words[n] = fmt.Sprint("b", len(word), strings.Count(word, "="))
			}
		}
		line = strings.Join(words, " ")
		if len(lines) > 0 && strings.HasPrefix(lines[len(lines)-1], line+" ×") || len(lines) > 0 && lines[len(lines)-1] == line {
			lines[len(lines)-1] = line + " ×" // and again
			continue
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "|")
}

// isBase64 tells the last line of an object from a keyword, which has no upper case.
func isBase64(word string) bool {
	return strings.ToLower(word) != word && !strings.HasPrefix(word, "-")
}

// form is a certificate without its keys, times and signature.
func form(c descriptor.Certificate) string {
	text := fmt.Sprintf("%02X %02X", byte(c.Type()), c.KeyType())
	for _, e := range c.Extensions() {
		text += fmt.Sprintf(" %02X/%02X/%d", e.Type, e.Flags, len(e.Data))
	}
	return text
}

func signer(c descriptor.Certificate) [32]byte { key, _ := c.SigningKey(); return key }

func kinds(specs []descriptor.LinkSpecifier) (text string) {
	for _, l := range specs {
		text += fmt.Sprintf("%d/%d ", l.Type, len(l.Data))
	}
	return text
}

// distinct counts the values of a list's items.
func distinct[T any, V comparable](list []T, of func(T) V) int {
	seen := make(map[V]bool)
	for _, item := range list {
		seen[of(item)] = true
	}
	return len(seen)
}

// sorted returns the values of the points.
func sorted(points []point, of func(*point) string) (list []string) {
	for n := range points {
		list = append(list, of(&points[n]))
	}
	slices.Sort(list)
	return list
}

// order says where each of the first points would stand if a value ordered them.
func order(points []point, of func(point) string) string {
	points = points[:min(3, len(points))]
	byValue := make([]int, len(points))
	for n := range byValue {
		byValue[n] = n
	}
	slices.SortStableFunc(byValue, func(a, b int) int { return cmp.Compare(of(points[a]), of(points[b])) })
	return fmt.Sprint(byValue)
}
