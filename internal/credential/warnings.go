package credential

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"onionbalancer/internal/event"
)

// sayOther is how soon the log repeats a warning about the same thing with another
// text: the number of crashes of a helper, or a waiting time, changes with every
// try. The status has the latest text.
const sayOther = 10 * time.Minute

// warning is a problem with the keys.
type warning struct {
	about string // the same for all tries
	text  string // for people
}

// saying is the last logged warning about something.
type saying struct {
	text string
	at   time.Time
}

// warnings lists the problems with the keys, in a stable order.
func (k *Keeper) warnings(now time.Time) (list []warning) {
	for p, f := range k.failures {
		about := fmt.Sprintf("certifying a descriptor-signing key for period %s", p)
		text := fmt.Sprintf("%s: %v", about, f.err)
		if c := k.Usable(now, p); c != nil {
			text += "; the one certified before is used until " + clock(c.Expires)
		}
		list = append(list, warning{about, text})
	}
	for p, err := range k.unsigned {
		about := fmt.Sprintf("signing the descriptor of period %s", p)
		list = append(list, warning{about, fmt.Sprintf("%s: %v", about, err)})
	}
	// A failure says why the last try failed.
	if called := k.current.called.Load(); len(k.failures) == 0 && called != 0 && now.Sub(time.Unix(0, called)) >= slowAnswer {
		list = append(list, warning{"slow", fmt.Sprintf("the custodian was asked at %s to certify, and has not answered yet", clock(time.Unix(0, called)))})
	}
	slices.SortFunc(list, func(a, b warning) int { return cmp.Compare(a.text, b.text) })
	return list
}

// Warnings returns the texts of the problems with the keys.
func (k *Keeper) Warnings(now time.Time) (texts []string) {
	for _, w := range k.warnings(now) {
		texts = append(texts, w.text)
	}
	return texts
}

// Warn records new problems with the keys.
func (k *Keeper) Warn(now time.Time) {
	said := make(map[string]saying)
	for _, w := range k.warnings(now) {
		last, known := k.said[w.about]
		if !known || last.text != w.text && now.Sub(last.at) >= sayOther {
			k.record(now, event.Custody, slog.LevelWarn, w.text)
			last = saying{w.text, now}
		}
		said[w.about] = last
	}
	k.said = said
}

// clock writes a time as people read it, with its zone.
func clock(t time.Time) string { return t.UTC().Format(time.DateTime + " UTC") }
