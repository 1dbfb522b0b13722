package selection

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// A Strategy says what each instance of a service should get. Strategies are
// stateless and safe for concurrent use.
type Strategy interface {
	// Name is the strategy's name in the configuration.
	Name() string
	// Wish says what each of the instances should get. The instances are in the order
	// of their names, each with a point at least. The result depends on nothing but the
	// arguments, which are left as they were. An instance that the wishes lack gets nothing.
	Wish(instances []Standing, now time.Time) Wishes
}

// Standing is an instance with all that it offers.
type Standing struct {
	Instance string
	Weight   float64
	Load     *float64    // see Candidate
	Points   []Candidate // by authentication key
}

// Wishes say what the instances should get.
type Wishes struct {
	Instances []Wish // as the Standings
	// Fill asks for as many points as fit, though shares then differ a little.
	Fill bool
	// AtRefresh has weights that changed wait for a refresh, since they change often.
	AtRefresh bool
}

// Wish is what one instance should get.
type Wish struct {
	// Weight is its share of the clients relative to the others'. With 0, or what is no
	// finite number, it gets none, unless no instance has a weight: then all have
	// the same.
	Weight float64
	// Prefer sorts its points, the better one first, as cmp.Compare does. Without
	// it, those that are fresh enough are taken: a published point stays until it is
	// old, and the youngest comes in its place.
	Prefer func(a, b Candidate) int
}

// Default is the strategy of a service that names none.
const Default = "spread"

// strategies is the registry, in the order in which help texts list it.
var strategies = []Strategy{
	Spread{},
	Weighted{},
	Freshest{},
	LongestLived{},
	Random{},
	LeastLoaded{},
}

// Lookup returns the strategy of that name; the empty name stands for Default.
func Lookup(name string) (Strategy, error) {
	if name == "" {
		name = Default
	}
	for _, s := range strategies {
		if s.Name() == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("unknown strategy %q, want one of %s", name, strings.Join(Names(), ", "))
}

// Weighs reports whether the strategy of that name heeds weights.
func Weighs(name string) bool {
	return slices.Contains([]string{"", Spread{}.Name(), Weighted{}.Name(), LeastLoaded{}.Name()}, name)
}

// Names lists the strategies, the default first.
func Names() []string {
	names := make([]string, len(strategies))
	for i, s := range strategies {
		names[i] = s.Name()
	}
	return names
}

// wish gives every instance the same wish but for its weight.
func wish(instances []Standing, weight func(Standing) float64, w Wishes, prefer func(a, b Candidate) int) Wishes {
	w.Instances = make([]Wish, len(instances))
	for n, i := range instances {
		w.Instances[n] = Wish{Weight: weight(i), Prefer: prefer}
	}
	return w
}

func weightOf(i Standing) float64 { return i.Weight }
func alike(Standing) float64      { return 1 }

// Spread gives every instance the same share of the clients, unless their weights
// differ: then it does as Weighted does. It takes as many points as the shares
// stay even with. An instance that offers fewer points than its share takes gets
// fewer clients; the others' points do not change.
//
// Use it when the instances are alike. Weights are then for what an operator says at
// run time.
type Spread struct{}

// Name implements Strategy.
func (Spread) Name() string { return "spread" }

// Wish implements Strategy.
func (Spread) Wish(instances []Standing, _ time.Time) Wishes {
	return wish(instances, weightOf, Wishes{}, nil)
}

// Weighted gives each instance a share of the clients in proportion to its
// weight. An instance of weight 0 is drained: it gets no new clients, as long as
// some other instance has a weight.
//
// The reach of the weights is limited by the number of points that an instance
// may have (Room.PerInstance) and has (HiddenServiceNumIntroductionPoints in its
// torrc, 3 unless set): give more of them to the heavy instances.
//
// Use it when the instances differ in capacity, or to drain one.
type Weighted struct{}

// Name implements Strategy.
func (Weighted) Name() string { return "weighted" }

// Wish implements Strategy.
func (Weighted) Wish(instances []Standing, _ time.Time) Wishes {
	return wish(instances, weightOf, Wishes{}, nil)
}

// Reach returns the shares that instances of these weights come to over Turns
// refreshes, by name, when each offers all the points that there is room for and
// clients ask the usual number of HSDirs.
func (Weighted) Reach(weights map[string]float64, room Room) map[string]float64 {
	var names []string
	var list []float64
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if weight := weights[name]; weight > 0 {
			names, list = append(names, name), append(list, weight)
		}
	}
	const asked = 6 // hsdir_spread_fetch for two replicas
	shares := make(map[string]float64)
	q := newQuota(list, roomFor(room, asked, len(list)), false, 0)
	for n, share := range q.mean() {
		shares[names[n]] = share
	}
	return shares
}

// Freshest prefers the points that were seen first most recently, and of those
// equally young the points of the instance that published last. Tor gives up an
// introduction point within a day of making it, so the youngest have the
// longest to live. It takes as many points as fit, and goes over to younger ones at
// each refresh, where the other strategies keep what is fresh enough.
//
// Use it with many short-lived instances.
type Freshest struct{}

// Name implements Strategy.
func (Freshest) Name() string { return "freshest" }

// Wish implements Strategy.
func (Freshest) Wish(instances []Standing, _ time.Time) Wishes {
	return wish(instances, alike, Wishes{Fill: true}, func(a, b Candidate) int {
		return cmp.Or(b.FirstSeen.Compare(a.FirstSeen), b.Published.Compare(a.Published))
	})
}

// LongestLived prefers the points that have been there longest: their relays
// and circuits have held so far. But tor gives up an introduction point 18 to 24
// hours after making it, so the oldest are also the next to go, and clients
// meet up to three times as many dead points as with any other strategy.
//
// Use it only when relays or instances fail soon after starting or not at all.
type LongestLived struct{}

// Name implements Strategy.
func (LongestLived) Name() string { return "longest-lived" }

// Wish implements Strategy.
func (LongestLived) Wish(instances []Standing, _ time.Time) Wishes {
	return wish(instances, alike, Wishes{Fill: true}, func(a, b Candidate) int {
		return a.FirstSeen.Compare(b.FirstSeen)
	})
}

// Random takes as many points as there is room for, though some instances then have
// one more than others, whatever their weights.
//
// Use it when as many points as possible matter more than even shares.
type Random struct{}

// Name implements Strategy.
func (Random) Name() string { return "random" }

// Wish implements Strategy.
func (Random) Wish(instances []Standing, _ time.Time) Wishes {
	return wish(instances, alike, Wishes{Fill: true}, nil)
}

// LeastLoaded gives each instance a share in proportion to its weight divided by the
// load it was told to have. Instances that were not told count as the
// mean of the others. What the load changes is bounded to a factor of four either
// way, and goes in steps of a half of a doubling, so that a small difference in load
// changes nothing. It takes effect at refreshes.
//
// Use it when the instances' load is told, and clients make unequal demands.
type LeastLoaded struct{}

// Name implements Strategy.
func (LeastLoaded) Name() string { return "least-loaded" }

// Wish implements Strategy.
func (LeastLoaded) Wish(instances []Standing, _ time.Time) Wishes {
	sum, told := 0.0, 0.0
	for _, i := range instances {
		if hasLoad(i) {
			sum, told = sum+*i.Load, told+1
		}
	}
	const bound = 4 // half doublings: a factor of four
	return wish(instances, func(i Standing) float64 {
		if !hasLoad(i) || sum == 0 {
			return i.Weight
		}
		steps := math.Round(2 * math.Log2(sum/told / *i.Load))
		return i.Weight * math.Exp2(min(max(steps, -bound), bound)/2)
	}, Wishes{AtRefresh: true}, nil)
}

// hasLoad reports whether a load was told that can be one.
func hasLoad(i Standing) bool {
	return i.Load != nil && *i.Load >= 0 && !math.IsInf(*i.Load, 1)
}
