package balance

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// sayOther is how soon the log repeats a warning about the same thing in other
// words: how often a helper crashed, or how long one waits, changes with every
// try. The status has the last words.
const sayOther = 10 * time.Minute

// custodyTrouble is something that is wrong with the keys.
type custodyTrouble struct {
	about string // stays the same from one try to the next
	text  string // for people
}

// saying is what was last logged about something.
type saying struct {
	text string
	at   time.Time
}

// custodyTroubles lists what is wrong with the keys, in a stable order.
func (s *Service) custodyTroubles(now time.Time) (list []custodyTrouble) {
	for p, f := range s.custody.failures {
		about := fmt.Sprintf("certifying a descriptor-signing key for period %s", p)
		text := fmt.Sprintf("%s: %v", about, f.err)
		if a := s.usable(now, p); a != nil {
			text += "; the one certified before is used until " + clock(a.expires)
		}
		list = append(list, custodyTrouble{about, text})
	}
	for p, e := range s.editions {
		if e.unmade != nil {
			about := fmt.Sprintf("signing the descriptor of period %s", p)
			list = append(list, custodyTrouble{about, fmt.Sprintf("%s: %v", about, e.unmade)})
		}
	}
	// A failure says what became of the try before.
	if asked := s.custody.asked; len(s.custody.failures) == 0 && !asked.IsZero() && now.Sub(asked) >= slowAnswer {
		list = append(list, custodyTrouble{"slow", fmt.Sprintf("the custodian was asked at %s to certify, and has not answered yet",
			clock(asked))})
	}
	slices.SortFunc(list, func(a, b custodyTrouble) int { return cmp.Compare(a.text, b.text) })
	return list
}

// warnOfCustody returns the texts of what is wrong with the keys, and logs what
// is new.
func (s *Service) warnOfCustody(now time.Time) (texts []string) {
	said := make(map[string]saying)
	for _, t := range s.custodyTroubles(now) {
		last, known := s.said[t.about]
		if !known || last.text != t.text && now.Sub(last.at) >= sayOther {
			s.log.Warn(t.text)
			last = saying{t.text, now}
		}
		said[t.about] = last
		texts = append(texts, t.text)
	}
	s.said = said
	return texts
}

// clock writes a time as people read it, with its zone.
func clock(t time.Time) string { return t.UTC().Format(time.DateTime + " UTC") }
