package state

import (
	"context"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

// Bytes32 is a key or a hash, in base64 without padding in its text form.
type Bytes32 [32]byte

// MarshalText returns base64.
func (b Bytes32) MarshalText() ([]byte, error) {
	return base64.RawStdEncoding.AppendEncode(nil, b[:]), nil
}

// UnmarshalText reads the output of MarshalText.
func (b *Bytes32) UnmarshalText(text []byte) error {
	raw, err := base64.RawStdEncoding.Strict().DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("reading base64: %w", err)
	}
	if len(raw) != len(b) {
		return fmt.Errorf("reading base64: %d bytes, want %d", len(raw), len(b))
	}
	copy(b[:], raw)
	return nil
}

// Address is an onion address in a record. Reading it back does not check it, as a
// store has thousands: descriptor.Address's own form checks that it is on the curve.
type Address [32]byte

// MarshalText returns the address as it is typed.
func (a Address) MarshalText() ([]byte, error) { return descriptor.Address(a).MarshalText() }

// UnmarshalText reads the output of MarshalText.
func (a *Address) UnmarshalText(text []byte) error {
	raw, err := labelCoding.DecodeString(strings.TrimSuffix(string(text), ".onion"))
	if err != nil {
		return fmt.Errorf("reading an onion address: %w", err)
	}
	if len(raw) != 35 {
		return fmt.Errorf("reading an onion address: %d bytes, want 35", len(raw))
	}
	copy(a[:], raw)
	return nil
}

var labelCoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567")

// Service is the record of a public address.
type Service struct {
	Owner    string    `json:"owner,omitempty"` // the manager that publishes it
	Term     uint64    `json:"term,omitempty"`  // counts the changes of Owner
	Ceilings []Ceiling `json:"ceilings,omitempty"`
	Made     []Made    `json:"made,omitempty"`
	// Points are the introduction points that the master descriptors have, each once.
	Points  []Published `json:"introduction_points,omitempty"`
	Drained []Drained   `json:"drained,omitempty"`
}

// Drained says when the introduction points of an instance that was taken out had
// left every HSDir that clients ask.
type Drained struct {
	Instance Address   `json:"instance"`
	At       time.Time `json:"at"`
}

// Ceiling is the highest revision counter that may have been used in a period. It
// is reserved before use; anyone who reads it starts above it.
type Ceiling struct {
	Period  uint64 `json:"period"`
	Minutes uint64 `json:"period_length_minutes"`
	Counter uint64 `json:"revision_counter"`
}

// Highest returns ceilings that are no lower than those of both lists.
func Highest(list, others []Ceiling) []Ceiling {
	list = slices.Clone(list)
	for _, other := range others {
		at := slices.IndexFunc(list, func(c Ceiling) bool { return c.Period == other.Period && c.Minutes == other.Minutes })
		if at < 0 {
			list = append(list, other)
		} else {
			list[at].Counter = max(list[at].Counter, other.Counter)
		}
	}
	return list
}

// Made is the last edition of a period.
type Made struct {
	Period   uint64    `json:"period"`
	Minutes  uint64    `json:"period_length_minutes"`
	Revision uint64    `json:"revision_counter"`
	Contents Bytes32   `json:"contents"`          // hash; zero if not known
	Signer   Bytes32   `json:"signer"`            // descriptor-signing key; zero if not known
	Built    time.Time `json:"built,omitzero"`    // zero if not known
	Refresh  time.Time `json:"refresh,omitzero"`  // when it is due again
	Pending  bool      `json:"pending,omitempty"` // not confirmed in every slot
	Turn     uint64    `json:"turn,omitempty"`    // how often it was refreshed
	Due      time.Time `json:"due,omitzero"`      // when the next Turn begins; zero: at Refresh
	Slots    []Slot    `json:"slots,omitempty"`   // empty if all have all Points, in their order
	Left     []Left    `json:"left,omitempty"`    // HSDirs that got it too
}

// Left is an HSDir that is in the ring no more, and which clients with an older consensus
// still ask.
type Left struct {
	HSDir   string    `json:"hsdir"` // as in Slot
	Replica int       `json:"replica"`
	At      time.Time `json:"at"` // of the first consensus without it
}

// Slot says what an HSDir was given.
type Slot struct {
	HSDir   string `json:"hsdir"`   // fingerprint, 40 upper-case hexadecimal digits
	Replica int    `json:"replica"` // from 1
	Points  []int  `json:"points"`  // their indexes in Service.Points
}

// Published is an introduction point of the master descriptors.
type Published struct {
	Instance Address `json:"instance"`
	AuthKey  Bytes32 `json:"auth_key"`
	EncKey   Bytes32 `json:"enc_key"`
	Relay    string  `json:"relay"` // RSA fingerprint, 40 upper-case hexadecimal digits
	// Rest is what else it takes to publish the point again when its instance shows it no
	// more: of a service with the profile "ordinary" only.
	Rest *PublishedRest `json:"rest,omitempty"`
}

// PublishedRest is the rest of a Published.
type PublishedRest struct {
	FirstSeen time.Time                  `json:"first_seen"`
	Expires   time.Time                  `json:"expires"`
	OnionKey  Bytes32                    `json:"onion_key"`
	Links     []descriptor.LinkSpecifier `json:"link_specifiers"`
}

// Instance is the record of a backend address: the last good descriptor.
type Instance struct {
	Period   uint64    `json:"period"`
	Minutes  uint64    `json:"period_length_minutes"`
	Revision uint64    `json:"revision_counter"` // none below is believed in this period
	Began    time.Time `json:"began,omitzero"`   // when the first of the period was seen; zero if not known
	Renewed  time.Time `json:"renewed"`          // when this revision was first seen
	Raw      []byte    `json:"descriptor"`       // as the HSDir sent it
	Points   []Point   `json:"introduction_points,omitempty"`
}

// Point is the stored state of an introduction point that the descriptor does not have.
type Point struct {
	AuthKey   Bytes32   `json:"auth_key"`
	EncKey    Bytes32   `json:"enc_key"`
	Relay     string    `json:"relay"` // as in Published
	FirstSeen time.Time `json:"first_seen"`
}

// Claims is the record of a period's keys of introduction points, of both kinds:
// the instances that offered each, in the order in which they were first seen.
type Claims struct {
	Keys map[Bytes32][]Address `json:"keys"`
}

// Word is the record of what an operator said about a backend address while balancer
// ran. The zero Word is nothing.
type Word struct {
	Admin  health.Admin  `json:"admin,omitempty"` // health.Drain, health.Maint or empty
	Weight health.Weight `json:"weight,omitzero"`
	Since  time.Time     `json:"since,omitzero"` // of the last change of these

	// Forgiven is when he last said that it is ready, whether or not it was: what checks hold
	// against it from before counts no more.
	Forgiven time.Time `json:"forgiven,omitzero"`
}

// Says reports whether anything is in force that is not so anyway.
func (w Word) Says() bool { return w.Admin != "" || w.Weight != (health.Weight{}) }

// Probe is the record of the probe address of a backend: secrets, which nothing shows.
type Probe struct {
	Seed   Secret `json:"seed"`   // of the address's identity key, as in RFC 8032
	Client Secret `json:"client"` // x25519 key of its one client, the manager
}

// Erase overwrites the secrets.
func (p *Probe) Erase() { *p = Probe{} }

// Secret is a secret key. It has a text form for the store alone, and is not printed.
type Secret [32]byte

// Format hides the secret.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[secret]")) }

// MarshalText returns base64.
func (s Secret) MarshalText() ([]byte, error) { return Bytes32(s).MarshalText() }

// UnmarshalText reads the output of MarshalText.
func (s *Secret) UnmarshalText(text []byte) error { return (*Bytes32)(s).UnmarshalText(text) }

const (
	probePrefix    = "probe/"
	instancePrefix = "instance/"
	claimsPrefix   = "claims/"
	// OperatorPrefix is that of the keys of the operator's words about backend addresses.
	OperatorPrefix = "operator/"
	// ServicePrefix is that of the keys of public addresses' records.
	ServicePrefix = "service/"
	// CustomerPrefix is that of the keys of customers' records, which package hosting writes.
	CustomerPrefix = "customer/"
	// SecretPrefix is that of the keys of records that a *cluster.Store does not have open in
	// memory. Who reads or writes one overwrites it then.
	SecretPrefix = "secret/"
	// ClientsPrefix is that of the keys of the records of who may use a public address.
	ClientsPrefix = "client/"
)

// CustomerKey returns the key of the record of a customer with a public address.
func CustomerKey(a descriptor.Address) Key { return Key(CustomerPrefix + a.Label()) }

// ClientsKey returns the key of the record of who may use a public address.
func ClientsKey(a descriptor.Address) Key { return Key(ClientsPrefix + a.Label()) }

// OperatorKey returns the key of the operator's word about a backend address.
func OperatorKey(a descriptor.Address) Key { return Key(OperatorPrefix + a.Label()) }

// ProbeKey returns the key of the record of a backend's probe address.
func ProbeKey(a descriptor.Address) Key { return Key(probePrefix + a.Label()) }

// ServiceKey returns the key of a public address's record.
func ServiceKey(a descriptor.Address) Key { return Key(ServicePrefix + a.Label()) }

// ServiceOf returns the public address of a record's key.
func ServiceOf(key Key) (descriptor.Address, error) { return addressOf(key, ServicePrefix) }

// CustomerOf returns the public address of a customer's record's key.
func CustomerOf(key Key) (descriptor.Address, error) { return addressOf(key, CustomerPrefix) }

// ClientsOf returns the public address of a ClientsKey.
func ClientsOf(key Key) (descriptor.Address, error) { return addressOf(key, ClientsPrefix) }

// OperatorOf returns the backend address of the key of the operator's word.
func OperatorOf(key Key) (descriptor.Address, error) { return addressOf(key, OperatorPrefix) }

func addressOf(key Key, prefix string) (descriptor.Address, error) {
	var address Address
	if err := address.UnmarshalText([]byte(strings.TrimPrefix(string(key), prefix))); err != nil {
		return descriptor.Address{}, fmt.Errorf("reading %s: %w", key, err)
	}
	return descriptor.Address(address), nil
}

// InstanceKey returns the key of a backend address's record.
func InstanceKey(a descriptor.Address) Key { return Key(instancePrefix + a.Label()) }

// ClaimsKey returns the key of a period's claims.
func ClaimsKey(p descriptor.Period) Key {
	return Key(fmt.Sprintf("%s%d/%d", claimsPrefix, p.Minutes(), p.Number))
}

// Service returns the record of a public address and its version, 0 if there is
// none.
func (d *DB) Service(a descriptor.Address) (Service, uint64, error) {
	return get[Service](d, ServiceKey(a))
}

// SwapService replaces the record of a public address, as Swap does.
func (d *DB) SwapService(ctx context.Context, a descriptor.Address, version uint64, s Service) (uint64, error) {
	return put(ctx, d, ServiceKey(a), version, s)
}

// Instance returns the record of a backend address and its version, 0 if there is
// none.
func (d *DB) Instance(a descriptor.Address) (Instance, uint64, error) {
	return get[Instance](d, InstanceKey(a))
}

// SwapInstance replaces the record of a backend address, as Swap does.
func (d *DB) SwapInstance(ctx context.Context, a descriptor.Address, version uint64, i Instance) (uint64, error) {
	return put(ctx, d, InstanceKey(a), version, i)
}

// Word returns the operator's word about a backend address and its version, 0 if
// there is none.
func (d *DB) Word(a descriptor.Address) (Word, uint64, error) { return Words{d}.Word(a) }

// SwapWord replaces the operator's word about a backend address, as Swap does.
func (d *DB) SwapWord(ctx context.Context, a descriptor.Address, version uint64, w Word) (uint64, error) {
	return Words{d}.SwapWord(ctx, a, version, w)
}

// Records are records of any kind, as a *DB has them.
type Records interface {
	Get(Key) (value []byte, version uint64, err error)
	List(prefix Key) ([]Entry, error)
	Swap(ctx context.Context, changes ...Change) (versions []uint64, err error)
}

// Words are the operator's words in a store, which need not be a *DB.
type Words struct{ Records }

// Words returns the words about all backend addresses, by address.
func (w Words) Words() ([]Listed[Word], error) { return list[Word](w, OperatorPrefix) }

// Word returns the word about a backend address and its version, 0 if there is none.
func (w Words) Word(a descriptor.Address) (Word, uint64, error) {
	return get[Word](w, OperatorKey(a))
}

// SwapWord replaces the word about a backend address, as Swap does.
func (w Words) SwapWord(ctx context.Context, a descriptor.Address, version uint64, word Word) (uint64, error) {
	return put(ctx, w, OperatorKey(a), version, word)
}

// Claims returns a period's claims and their version, 0 if there are none.
func (d *DB) Claims(p descriptor.Period) (Claims, uint64, error) {
	return get[Claims](d, ClaimsKey(p))
}

// SwapClaims replaces a period's claims, as Swap does.
func (d *DB) SwapClaims(ctx context.Context, p descriptor.Period, version uint64, c Claims) (uint64, error) {
	return put(ctx, d, ClaimsKey(p), version, c)
}

// Probe returns the record of a backend's probe address and its version, 0 if there is
// none. The caller erases it.
func (d *DB) Probe(a descriptor.Address) (record Probe, version uint64, err error) {
	key := ProbeKey(a)
	value, version, err := d.Get(key)
	defer clear(value)
	if err == nil && version != 0 {
		err = decode(key, value, &record)
	}
	return record, version, err
}

// SwapProbe replaces the record of a backend's probe address, as Swap does, however
// long that takes.
func (d *DB) SwapProbe(a descriptor.Address, version uint64, p Probe) (uint64, error) {
	change, err := Put(ProbeKey(a), version, p)
	if err != nil {
		return 0, err
	}
	defer clear(change.Value)
	versions, err := d.Swap(context.Background(), change)
	if err != nil {
		return 0, err
	}
	return versions[0], nil
}

// Put returns the change that stores a record, for a Swap of several. record is a
// Service, an Instance, a Word, a Probe, a Claims or a customer.
func Put(key Key, version uint64, record any) (Change, error) {
	value, err := json.Marshal(record)
	if err != nil {
		return Change{}, fmt.Errorf("storing %s: %w", key, err)
	}
	return Change{key, version, value}, nil
}

// Listed is a record of a list.
type Listed[T any] struct {
	Address descriptor.Address
	Version uint64
	Record  T
}

// Services returns the records of all public addresses, by address.
func (d *DB) Services() ([]Listed[Service], error) { return list[Service](d, ServicePrefix) }

// Instances returns the records of all backend addresses, by address.
func (d *DB) Instances() ([]Listed[Instance], error) { return list[Instance](d, instancePrefix) }

// Words returns the operator's words about all backend addresses, by address.
func (d *DB) Words() ([]Listed[Word], error) { return Words{d}.Words() }

// ListedClaims is a period's claims.
type ListedClaims struct {
	Period  descriptor.Period
	Version uint64
	Record  Claims
}

// AllClaims returns the claims of all periods, by period.
func (d *DB) AllClaims() ([]ListedClaims, error) {
	entries, err := d.List(claimsPrefix)
	var all []ListedClaims
	for _, e := range entries {
		var number, minutes uint64
		if _, err := fmt.Sscanf(string(e.Key), claimsPrefix+"%d/%d", &minutes, &number); err != nil {
			return nil, fmt.Errorf("reading %s: %w", e.Key, err)
		}
		c := ListedClaims{Period: descriptor.Period{Number: number, Length: time.Duration(minutes) * time.Minute}, Version: e.Version}
		if err := decode(e.Key, e.Value, &c.Record); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b ListedClaims) int {
		return a.Period.Start(0).Compare(b.Period.Start(0))
	})
	return all, err
}

func get[T any](d Records, key Key) (record T, version uint64, err error) {
	value, version, err := d.Get(key)
	if err == nil && version != 0 {
		err = decode(key, value, &record)
	}
	return record, version, err
}

func put(ctx context.Context, d Records, key Key, version uint64, record any) (uint64, error) {
	change, err := Put(key, version, record)
	if err != nil {
		return 0, err
	}
	versions, err := d.Swap(ctx, change)
	if err != nil {
		return 0, err
	}
	return versions[0], nil
}

func list[T any](d Records, prefix Key) ([]Listed[T], error) {
	entries, err := d.List(prefix)
	if err != nil {
		return nil, err
	}
	all := make([]Listed[T], len(entries))
	for i, e := range entries {
		address, err := addressOf(e.Key, string(prefix))
		if err != nil {
			return nil, err
		}
		all[i] = Listed[T]{Address: address, Version: e.Version}
		if err := decode(e.Key, e.Value, &all[i].Record); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func decode(key Key, value []byte, record any) error {
	if err := json.Unmarshal(value, record); err != nil {
		return fmt.Errorf("reading %s: %w", key, err)
	}
	return nil
}
