package daemon

import (
	"fmt"
	"slices"

	"onionbalancer/internal/balance"
	"onionbalancer/internal/health"
	"onionbalancer/internal/printable"
)

// torPoints is how many introduction points the tor of an instance makes if its torrc does
// not say.
const torPoints = 3

// checkProfile says what the profile "ordinary" needs of a service, and what it costs.
func (c *checker) checkProfile(s balance.Config) {
	if !s.Ordinary {
		return
	}
	what := "profile of " + shortName(s)
	points, instances := s.Room.Points, len(s.Instances)
	costs := fmt.Sprintf("ordinary, %d introduction points, the same at all HSDirs", points)
	if instances > points {
		costs += fmt.Sprintf(": %d of %d instances serve at a time, and the others get their turns as points end, over days", points, instances)
	}
	if slices.ContainsFunc(s.Instances, func(i balance.Instance) bool { return i.Check.Kind != health.None }) {
		costs += "; each point that checks find dead is replaced at once, by one more upload"
	}
	c.ok(what, "%s", costs)
	if instances < points {
		c.warn(what, fmt.Sprintf("use %s or more", printable.Count(points, "instance")),
			"%s for %d introduction points: when one restarts, several points end at once, as those of a single tor seldom do", printable.Count(instances, "instance"), points)
	}
	if each := pointsOfEach(s); each > torPoints {
		c.warn(what, numIntroductionPoints(each), "each instance has to offer %d introduction points or more, and a tor makes %d unless its torrc says otherwise: "+
			"with fewer than %d in all, %s", each, torPoints, 2*points, sharedPoints)
	}
	if len(s.CAA) > 0 {
		c.warn(what, "remove caa, if who knows the address must not tell", "no tor publishes CAA records of its own")
	}
}

// checkOffer says whether the instances offer as many points as the two descriptors of an
// ordinary service need.
func (c *checker) checkOffer(what string, s balance.Config, points int) {
	need := 2 * s.Room.Points
	if points < need {
		var less string
		if points < s.Room.Points {
			less = fmt.Sprintf("descriptors have %d in place of %d, and ", points, s.Room.Points)
		}
		c.warn(what, numIntroductionPoints(pointsOfEach(s)), "the instances offer %s, and two descriptors of %d need %d: %s%s",
			printable.Count(points, "introduction point"), s.Room.Points, need, less, sharedPoints)
		return
	}
	c.ok(what, "%d introduction points, enough for two descriptors of %d that have none in common", points, s.Room.Points)
}

const sharedPoints = "the two descriptors have points in common, which no tor's have, and who knows the address can see"

// pointsOfEach is how many points an instance should offer, for each of the two
// descriptors to have other ones.
func pointsOfEach(s balance.Config) int {
	return (2*s.Room.Points + len(s.Instances) - 1) / len(s.Instances)
}

func numIntroductionPoints(n int) string {
	return fmt.Sprintf("put HiddenServiceNumIntroductionPoints %d into the torrc of each instance, or use more instances", n)
}
