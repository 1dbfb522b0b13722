package offline

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"onionbalancer/descriptor"
)

// The bounds of a request.
const (
	MaxPeriods  = 1000
	MaxServices = 1000
)

// Request is the request of a manager: for each service the public halves of
// its descriptor-signing keys, for periods without a gap. It holds no secret.
type Request struct {
	header
	Made time.Time `json:"made"` // by the manager's clock, whole seconds
	Schedule
	First    uint64   `json:"first_period"`
	Services []Wanted `json:"services"`
}

// Wanted is the request for one address.
type Wanted struct {
	Address descriptor.Address `json:"address"`
	// CertifiedThrough is the last period for which the manager has a
	// certificate; 0 if it has none.
	CertifiedThrough uint64 `json:"certified_through,omitempty"`
	// Keys are the signing keys of the periods from the request's First on.
	Keys []ed25519.PublicKey `json:"signing_keys"`
}

// NewRequest puts a request together and checks it.
func NewRequest(now time.Time, s Schedule, first uint64, services []Wanted) (*Request, error) {
	services = slices.Clone(services)
	sortServices(services)
	r := &Request{header: header{kindRequest, version}, Made: stamp(now), Schedule: s, First: first, Services: services}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	return r, nil
}

// Fits reports whether a request for that many addresses and periods, and the bundle that
// answers it, are small enough to be read.
func Fits(s Schedule, addresses, periods int) error {
	if addresses > MaxServices {
		return fmt.Errorf("%d addresses in one ceremony, want %d at most: name the directory of one shard after the other with --dir", addresses, MaxServices)
	}
	// A certificate is a signature for every hour, in base64; around it is less than
	// entryRest.
	certificate := singleLength + (s.Expiries(1).Count-1)*ed25519.SignatureSize
	size := addresses * periods * (certificate*4/3 + entryRest)
	if size > MaxFile {
		return fmt.Errorf("the bundle of %d addresses and %d periods would have some %d MB, of %d at most: ask for fewer --periods, or name the directory of one shard after the other with --dir",
			addresses, periods, size>>20, MaxFile>>20)
	}
	return nil
}

const entryRest = 800

// ParseRequest reads a request, strictly.
func ParseRequest(raw []byte) (*Request, error) {
	var r Request
	err := decode(raw, kindRequest, &r)
	if err == nil {
		err = r.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("reading a request: %w", err)
	}
	return &r, nil
}

// Encode returns the request as a file has it.
func (r *Request) Encode() ([]byte, error) { return encode(r) }

// Fingerprint stands for the content of r, however it is laid out in a file.
func (r *Request) Fingerprint() (Fingerprint, error) {
	raw, err := compact(r)
	if err != nil {
		return "", fmt.Errorf("computing the fingerprint of a request: %w", err)
	}
	return fingerprint(fingerprintGroups, raw), nil
}

// Periods returns how many periods r covers.
func (r *Request) Periods() int { return len(r.Services[0].Keys) }

// Last returns the number of the last period.
func (r *Request) Last() uint64 { return r.First + uint64(r.Periods()) - 1 }

func (r *Request) validate() error {
	if n := len(r.Services); n < 1 || n > MaxServices {
		return fmt.Errorf("%d addresses, want 1 to %d", n, MaxServices)
	}
	if n := r.Periods(); n < 1 || n > MaxPeriods {
		return fmt.Errorf("%d periods, want 1 to %d", n, MaxPeriods)
	}
	if err := errors.Join(checkTime(r.Made), r.Schedule.validate(r.First, r.Periods())); err != nil {
		return err
	}
	addresses := map[descriptor.Address]bool{}
	keys := map[[ed25519.PublicKeySize]byte]bool{}
	for i, w := range r.Services {
		if addresses[w.Address] {
			return fmt.Errorf("%s is in it twice", w.Address.Short())
		}
		if i > 0 && w.Address.Label() < r.Services[i-1].Address.Label() {
			return fmt.Errorf("%s is out of order", w.Address.Short())
		}
		if err := r.Schedule.validate(w.CertifiedThrough, 0); err != nil {
			return fmt.Errorf("%s: the certificates that it has: %w", w.Address.Short(), err)
		}
		addresses[w.Address] = true
		if err := w.validate(r.Periods(), keys); err != nil {
			return fmt.Errorf("%s: %w", w.Address.Short(), err)
		}
	}
	return nil
}

// validate checks w, and that none of its keys is in seen, to which it adds
// them: a key that signs for two periods or addresses would show anyone who sees
// both descriptors that they belong together.
func (w *Wanted) validate(periods int, seen map[[ed25519.PublicKeySize]byte]bool) error {
	if len(w.Keys) != periods {
		return fmt.Errorf("%d signing keys, want one for each of %d periods", len(w.Keys), periods)
	}
	for i, key := range w.Keys {
		if len(key) != ed25519.PublicKeySize {
			return fmt.Errorf("signing key %d has %d bytes, want %d", i+1, len(key), ed25519.PublicKeySize)
		}
		if seen[[ed25519.PublicKeySize]byte(key)] {
			return fmt.Errorf("signing key %d is in the request twice, which would tell that two descriptors belong together", i+1)
		}
		seen[[ed25519.PublicKeySize]byte(key)] = true
	}
	return nil
}

// When Warnings begins to warn.
const (
	longHorizon = 180 * 24 * time.Hour
	oldRequest  = 7 * 24 * time.Hour
	clockSkew   = 10 * time.Minute
)

// Warnings returns what to consider before signing r at now, in plain words;
// empty if there is nothing.
func (r *Request) Warnings(now time.Time) []string {
	var list []string
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	switch age := now.Sub(r.Made); {
	case age < -clockSkew:
		say("the request was made at %s, which is yet to come by the clock of this machine (%s): one of the two clocks is wrong", clock(r.Made), clock(now))
	case age > oldRequest:
		say("the request was made at %s, %d days ago by the clock of this machine (%s): is it the right file, and the clock right?", clock(r.Made), int(age.Hours()/24), clock(now))
	}
	over, end := r.over(now), r.End(r.Last())
	switch {
	case over == r.Periods():
		say("all of its periods are over by the clock of this machine (%s): is it the right file, and the clock right?", clock(now))
	case !now.Before(end):
		say("its last period ended at %s: clients ask for a later one by the clock of this machine (%s)", clock(end), clock(now))
	case over > 0:
		say("%d of its %d periods are over by the clock of this machine (%s)", over, r.Periods(), clock(now))
	}
	if span, ahead := end.Sub(r.Start(r.First)), end.Sub(r.Made); span > longHorizon {
		say("it covers %d days: who steals the manager can publish under the address for as long, and nothing but time ends that", int(span.Hours()/24))
	} else if ahead > longHorizon {
		say("it reaches %d days ahead: who steals the manager can publish under the address until %s, and nothing but time ends that", int(ahead.Hours()/24), clock(end))
	}
	if r.Schedule != Public {
		say("it is not for the public Tor network, but for one with %s", r.Schedule)
	}
	for _, w := range r.Services {
		switch {
		case w.CertifiedThrough != 0 && r.First > w.CertifiedThrough+1:
			say("%s: a gap: the manager has certificates until %s, and the request begins at %s", w.Address, clock(r.End(w.CertifiedThrough)), clock(r.Start(r.First)))
		case w.CertifiedThrough == 0 && now.Before(r.FirstUse(r.First)):
			say("%s: the manager has no certificates, and the request begins at %s: nothing can be published before", w.Address, clock(r.FirstUse(r.First)))
		}
	}
	return list
}

// over counts the periods for which nothing is published any more.
func (r *Request) over(now time.Time) int {
	n := 0
	for ; n < r.Periods() && now.After(r.LastUse(r.First+uint64(n))); n++ {
	}
	return n
}

// keysInPart is how many signing keys fit into a part of a request.
const keysInPart = 40

// Split returns the request in parts, smaller than MaxPart, each a request for
// some periods of one address. JoinRequests undoes it.
func (r *Request) Split() ([][]byte, error) {
	var parts [][]byte
	for _, w := range r.Services {
		first := r.First
		for keys := range slices.Chunk(w.Keys, keysInPart) {
			one := *r
			one.First = first
			one.Services = []Wanted{{Address: w.Address, CertifiedThrough: w.CertifiedThrough, Keys: keys}}
			part, err := encodePart(&one)
			if err != nil {
				return nil, fmt.Errorf("splitting a request: %w", err)
			}
			parts = append(parts, part)
			first += uint64(len(keys))
		}
	}
	return parts, nil
}

// JoinRequests joins the parts of one request again, in any order.
// The fingerprint is that of the whole. One whole request is fine.
func JoinRequests(parts []*Request) (*Request, error) {
	r, err := join(parts)
	if err != nil {
		return nil, fmt.Errorf("putting the parts of a request together: %w", err)
	}
	return r, nil
}

// SortRequests sorts the requests of several managers, or their parts: each list that it
// returns is for JoinRequests. Parts of one request have the same time. Two managers may have
// asked in the same second: they are told apart if the request of each is whole.
func SortRequests(parts []*Request) (groups [][]*Request) {
	type origin struct {
		Schedule
		made int64
	}
	places := map[origin]int{}
	for _, part := range parts {
		from := origin{part.Schedule, part.Made.Unix()}
		place, known := places[from]
		if !known {
			place = len(groups)
			places[from], groups = place, append(groups, nil)
		}
		groups[place] = append(groups[place], part)
	}
	var sorted [][]*Request
	for _, group := range groups {
		if !rivals(group) {
			sorted = append(sorted, group)
			continue
		}
		for _, one := range group {
			sorted = append(sorted, []*Request{one})
		}
	}
	return sorted
}

// rivals reports whether all requests are for the same periods of the same addresses.
func rivals(list []*Request) bool {
	for _, r := range list {
		if r.First != list[0].First || r.Periods() != list[0].Periods() ||
			!slices.EqualFunc(r.Services, list[0].Services, func(a, b Wanted) bool { return a.Address == b.Address }) {
			return false
		}
	}
	return len(list) > 1
}

// Shares adds the signing keys of r to those that were asked for before, each with the file
// that did, and returns the file that asked for one of them already, if there is one.
func (r *Request) Shares(asked map[string]string, file string) (other string) {
	for _, w := range r.Services {
		for _, key := range w.Keys {
			if before, there := asked[string(key)]; there {
				other = before
			}
			asked[string(key)] = file
		}
	}
	return other
}

func join(parts []*Request) (*Request, error) {
	if len(parts) == 0 {
		return nil, errors.New("there are none")
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	sorted := slices.Clone(parts)
	slices.SortStableFunc(sorted, func(a, b *Request) int { return cmp.Compare(a.First, b.First) })
	whole := *sorted[0]
	whole.Services = nil
	keys := map[descriptor.Address]*Wanted{}
	for _, part := range sorted {
		if part.Schedule != whole.Schedule || !part.Made.Equal(whole.Made) {
			return nil, errors.New("they are of different requests")
		}
		for _, w := range part.Services {
			if err := whole.add(keys, part.First, w); err != nil {
				return nil, fmt.Errorf("%s: %w", w.Address.Short(), err)
			}
		}
	}
	for _, w := range keys {
		whole.Services = append(whole.Services, *w)
	}
	sortServices(whole.Services)
	if err := whole.validate(); err != nil {
		return nil, fmt.Errorf("%w: is a part missing?", err)
	}
	return &whole, nil
}

// add puts the keys of the periods from first on behind those that r has of the
// same address.
func (r *Request) add(have map[descriptor.Address]*Wanted, first uint64, w Wanted) error {
	old := have[w.Address]
	if old == nil {
		old = &Wanted{Address: w.Address, CertifiedThrough: w.CertifiedThrough}
		have[w.Address] = old
	}
	if old.CertifiedThrough != w.CertifiedThrough {
		return errors.New("the parts are of different requests")
	}
	switch at := r.First + uint64(len(old.Keys)); {
	case first > at:
		return fmt.Errorf("the part with period %d is missing", at)
	case first < at:
		return r.same(old, first, w)
	}
	old.Keys = append(old.Keys, w.Keys...)
	return nil
}

// same fails unless everything that w has from period first on is in old already.
func (r *Request) same(old *Wanted, first uint64, w Wanted) error {
	from := int(first - r.First)
	if from+len(w.Keys) > len(old.Keys) || !slices.EqualFunc(old.Keys[from:from+len(w.Keys)], w.Keys, func(a, b ed25519.PublicKey) bool { return a.Equal(b) }) {
		return fmt.Errorf("two parts contradict each other about period %d or one after it", first)
	}
	return nil
}

// sortServices brings services into the one order that requests have them in.
func sortServices(list []Wanted) {
	slices.SortFunc(list, func(a, b Wanted) int { return cmp.Compare(a.Address.Label(), b.Address.Label()) })
}
