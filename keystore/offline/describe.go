package offline

import (
	"time"

	"onionbalancer/descriptor"
)

// Span is periods without a gap, and when the first begins and the last ends.
type Span struct {
	First uint64    `json:"first_period"`
	Last  uint64    `json:"last_period"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// Span returns the span of some periods.
func (s Schedule) Span(first, last uint64) Span {
	return Span{First: first, Last: last, From: s.Start(first), Until: s.End(last)}
}

// Periods returns how many there are.
func (s Span) Periods() int { return int(s.Last - s.First + 1) }

// Description is what a manager's directory holds, without anything secret.
type Description struct {
	Address descriptor.Address `json:"address"`
	Dir     string             `json:"dir"`
	Schedule
	Keys      []Span    `json:"signing_keys"`
	OnToken   int       `json:"signing_keys_on_token,omitempty"`
	Certified []Span    `json:"certified"`
	Horizon   int       `json:"horizon_periods,omitempty"` // of the last ceremony
	Ceremony  time.Time `json:"last_ceremony,omitzero"`
}

// Describe reads a directory.
func Describe(dir string) (*Description, error) {
	c, err := load(dir)
	if err != nil {
		return nil, err
	}
	defer c.keys.wipe()
	d := &Description{Address: c.keys.Address, Dir: dir, Schedule: c.keys.Schedule, Keys: []Span{}, Certified: []Span{}}
	for _, k := range c.keys.Keys {
		d.Keys = d.Schedule.extend(d.Keys, k.Period)
		if k.Seed == nil {
			d.OnToken++
		}
	}
	if c.bundle == nil {
		return d, nil
	}
	for _, e := range c.bundle.Entries {
		if c.usable(e.Period) != nil {
			d.Certified = d.Schedule.extend(d.Certified, e.Period)
		}
		if e.Made.After(d.Ceremony) {
			d.Ceremony, d.Horizon = e.Made, e.Periods
		}
	}
	return d, nil
}

// Spans returns the spans of an address's entries.
func (b *Bundle) Spans(a descriptor.Address) []Span {
	var list []Span
	for _, e := range b.Of(a) {
		list = b.Schedule.extend(list, e.Period)
	}
	return list
}

// extend adds the next period to spans.
func (s Schedule) extend(spans []Span, number uint64) []Span {
	if n := len(spans); n > 0 && spans[n-1].Last+1 == number {
		spans[n-1] = s.Span(spans[n-1].First, number)
		return spans
	}
	return append(spans, s.Span(number, number))
}
