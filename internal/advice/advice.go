// Package advice is the strategy "exec:/path/of/program": a program of the operator's
// says what each instance of a service should get.
//
// The program is run without arguments, once for every question. A question (Question)
// is one JSON object on its standard input: the instances with their weights and loads
// and their introduction points, and what each slot holds. Its answer (Answer) is one
// JSON object on its standard output, weights by instance and preferences by point:
//
//	{"weights": {"web1": 2, "web2": 0.5}, "prefer": {"k5xw…": 10}}
//
// An Advisor asks when the candidates of its service change, and every minute besides,
// outside of the service's loop. What it has is a plain strategy (Told), so a program
// that hangs, crashes or answers nonsense costs nothing but its advice: the last good
// answer counts for an hour, and without one the strategy is as "spread".
//
// A program sees no secrets: points have names that say nothing (they are keyed hashes
// of their keys), and there is no address in a question. It has no privileges (Run).
package advice

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/printable"
	"onionbalancer/selection"
)

// Prefix begins the name of a strategy that is a program.
const Prefix = "exec:"

// Program returns the path of the program that a strategy of the configuration names,
// and whether it does.
func Program(strategy string) (path string, is bool) { return strings.CutPrefix(strategy, Prefix) }

// Version is that of the format of questions and answers.
const Version = 1

// Question is what a program is asked.
type Question struct {
	Version   int        `json:"version"`
	Now       time.Time  `json:"now"`
	Example   bool       `json:"example,omitempty"` // made up, to try the program: nothing comes of the answer
	Room      Room       `json:"room"`
	Instances []Instance `json:"instances"` // by name
	Slots     []Slot     `json:"slots"`

	points map[string]key // by ID
}

// Room is how many introduction points a descriptor has room for.
type Room struct {
	Points      int `json:"points"`
	PerInstance int `json:"per_instance"`
}

// Instance is an instance that can have clients.
type Instance struct {
	Name   string   `json:"name"`
	Weight float64  `json:"weight"` // in force
	Load   *float64 `json:"load"`   // as told at run time; null if it was not
	Points []Point  `json:"points"`
}

// Point is an introduction point of an instance.
type Point struct {
	ID        string  `json:"id"`          // the same in each question of one service, until balancer restarts
	Relay     string  `json:"relay"`       // fingerprint, 40 hexadecimal digits
	Age       float64 `json:"age_seconds"` // since it was first seen in this period
	Published bool    `json:"published"`
	Preferred int     `json:"preferred"` // by points.prefer: higher is better, 0 is not
}

// Slot is an HSDir that has a descriptor of the service, or is to get one.
type Slot struct {
	Replica int      `json:"replica"` // counted from 1
	Asked   bool     `json:"asked"`   // clients ask it
	Holds   []string `json:"holds"`   // IDs, in order; also of points that no instance has any more
}

// Answer is what a program says.
type Answer struct {
	// Weights are what each instance should get, relative to the others: from 0 on. An
	// instance that is missing keeps its own.
	Weights map[string]float64 `json:"weights"`
	// Prefer says which points of an instance go first, by ID: the higher, the sooner.
	// Missing ones are 0. Without any, points are chosen as by other strategies.
	Prefer map[string]float64 `json:"prefer"`

	unknown []string // instances in Weights that there are not
}

// key is an introduction point's authentication key.
type key = [32]byte

// idCoding writes IDs.
var idCoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// questionOf writes down a request. secret makes the IDs of the points.
func questionOf(r selection.Request, secret []byte) Question {
	q := Question{Version: Version, Now: r.Now.UTC(), Room: Room{r.Room.Points, r.Room.PerInstance}, points: make(map[string]key)}
	id := func(k key) string {
		mac := hmac.New(sha256.New, secret)
		mac.Write(k[:])
		return idCoding.EncodeToString(mac.Sum(nil)[:15])
	}
	held := make(map[key]bool)
	for _, s := range r.Slots {
		slot := Slot{Replica: s.Replica, Asked: s.Asked, Holds: []string{}}
		for _, k := range s.Holds {
			held[k] = true
			slot.Holds = append(slot.Holds, id(k))
		}
		q.Slots = append(q.Slots, slot)
	}
	byName := make(map[string]*Instance)
	for _, c := range r.Candidates {
		i := byName[c.Instance]
		if i == nil {
			i = &Instance{Name: c.Instance, Weight: c.Weight, Load: c.Load}
			byName[c.Instance] = i
		}
		p := Point{ID: id(c.Point.AuthKey), Relay: relayOf(c.Point), Published: held[c.Point.AuthKey], Preferred: c.Preferred}
		if !c.FirstSeen.IsZero() {
			p.Age = math.Max(0, r.Now.Sub(c.FirstSeen).Seconds())
		}
		i.Points = append(i.Points, p)
		q.points[p.ID] = c.Point.AuthKey
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		q.Instances = append(q.Instances, *byName[name])
	}
	return q
}

// relayOf returns the fingerprint of a point's relay.
func relayOf(p *descriptor.IntroductionPoint) string {
	for _, l := range p.LinkSpecifiers {
		if l.Type == descriptor.LinkRSA {
			return fmt.Sprintf("%X", l.Data)
		}
	}
	return ""
}

// Example returns a made-up question about instances of these names and weights, each
// with three introduction points.
func Example(weights map[string]float64, now time.Time) Question {
	r := selection.Request{Now: now, Room: selection.Room{Points: 20, PerInstance: 3}}
	for n, name := range slices.Sorted(maps.Keys(weights)) {
		for m := range 3 {
			relay := sha256.Sum256([]byte{byte(n), byte(n >> 8), byte(m)})
			p := &descriptor.IntroductionPoint{AuthKey: relay, LinkSpecifiers: []descriptor.LinkSpecifier{{Type: descriptor.LinkRSA, Data: relay[:20]}}}
			r.Candidates = append(r.Candidates, selection.Candidate{Instance: name, Weight: weights[name], Point: p, FirstSeen: now.Add(-time.Duration(m) * time.Hour)})
		}
	}
	for replica := range 2 {
		for n := range 4 {
			s := selection.Slot{Replica: replica + 1, Asked: n < 3}
			for m := 0; m < len(r.Candidates); m += 3 {
				s.Holds = append(s.Holds, r.Candidates[m].Point.AuthKey)
			}
			r.Slots = append(r.Slots, s)
		}
	}
	q := questionOf(r, nil)
	q.Example = true
	return q
}

// maxWeight is the highest weight that is taken, as in the configuration.
const maxWeight = math.MaxInt32

// parseAnswer reads and checks the answer to a question.
func parseAnswer(text []byte, q *Question) (a Answer, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if text = bytes.TrimSpace(text); len(text) == 0 || text[0] != '{' {
		return a, errors.New("reading its answer: it is no JSON object")
	}
	if err := decoder.Decode(&a); err != nil {
		return a, fmt.Errorf("reading its answer: %s", printable.Text(err.Error()))
	}
	if _, err := decoder.Token(); err != io.EOF {
		return a, errors.New("reading its answer: there is more behind the JSON object")
	}
	for name, weight := range a.Weights {
		if weight < 0 || weight > maxWeight {
			return a, fmt.Errorf("reading its answer: the weight %v of %q is out of range, want 0 to %d", weight, printable.Text(name), maxWeight)
		}
		if !slices.ContainsFunc(q.Instances, func(i Instance) bool { return i.Name == name }) {
			a.unknown = append(a.unknown, name)
		}
	}
	slices.Sort(a.unknown)
	for id := range a.Prefer {
		if _, known := q.points[id]; !known {
			return a, fmt.Errorf("reading its answer: it prefers %q, and no introduction point in the question has that ID", printable.Text(id))
		}
	}
	return a, nil
}

// Unknown says which instances an answer names that were not in the question; nil if
// none. Such an answer counts all the same.
func (a Answer) Unknown() error {
	if len(a.unknown) == 0 {
		return nil
	}
	shown := a.unknown[:min(len(a.unknown), 5)]
	return fmt.Errorf("its answer has weights for instances that cannot have clients now, or that there are not: %s", printable.Text(strings.Join(shown, ", ")))
}
