package balance

import (
	"encoding/json"

	"onionbalancer/hsdir"
)

// Slot is a slot in a plan, for people and programs to read.
type Slot struct {
	Replica int     `json:"replica"`
	HSDir   string  `json:"hsdir"`
	Reserve bool    `json:"reserve,omitempty"`
	Left    bool    `json:"left,omitempty"`      // it is in the ring no more
	Points  []Point `json:"introduction_points"` // in order
}

// Point is an introduction point of a Slot.
type Point struct {
	Relay    string `json:"relay"`
	Instance string `json:"instance,omitempty"` // empty if it is no longer configured
}

// List returns what every slot of t should hold.
func (p *Plan) List(t *Target) (list []Slot) {
	for _, at := range t.places {
		line := Slot{Replica: at.Replica, HSDir: hsdir.Relay{Fingerprint: at.HSDir}.Hex(), Reserve: at.Reserve, Left: at.Left}
		if !at.holding.empty() {
			line.Points = p.points(at.holding)
		}
		list = append(list, line)
	}
	return list
}

func (p *Plan) points(h *holding) (list []Point) {
	for n := range h.IntroductionPoints {
		point := &h.IntroductionPoints[n]
		list = append(list, Point{point.Relay().String(), p.Instance(point)})
	}
	return list
}

// Common returns the points of all slots if they have the same, else nil.
func (p *Plan) Common() []Point {
	var same *holding
	for n := range p.Targets {
		for _, at := range p.Targets[n].places {
			if same == nil {
				same = at.holding
			}
			if at.holding != same || same.empty() {
				return nil
			}
		}
	}
	if same == nil {
		return nil
	}
	return p.points(same)
}

// MarshalJSON writes the plan, without keys.
func (p Plan) MarshalJSON() ([]byte, error) {
	type target struct {
		Role   hsdir.Role `json:"role"`
		Period uint64     `json:"period"`
		Reason Reason     `json:"reason,omitempty"`
		Held   string     `json:"held,omitempty"`
		Turn   uint64     `json:"turn"`
		Slots  []Slot     `json:"slots"`
	}
	type plain Plan // without this method
	out := struct {
		plain
		Targets []target `json:"targets,omitempty"`
	}{plain: plain(p)}
	for n := range p.Targets {
		t := &p.Targets[n]
		out.Targets = append(out.Targets, target{t.Role, t.Keys.Period.Number, t.Reason, t.Held, t.Turn, p.List(t)})
	}
	return json.Marshal(out)
}
