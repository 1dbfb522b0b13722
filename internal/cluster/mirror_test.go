package cluster

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"onionbalancer/internal/state"
)

// Whatever comes in whichever order, the mirror has of each record what the latest revision
// says that it was told of: by the watch, by an answer about some records, or by what was
// read of all. And none of it looks as if the engine had gone back.
func TestMirrorInAnyOrder(t *testing.T) {
	const names = 3
	rapid.Check(t, func(t *rapid.T) {
		// The state of each revision: versions by name, 0 if it is not there.
		history := [][names]int64{{}}
		for revision := int64(1); revision <= 12; revision++ {
			now := history[revision-1]
			for n := range now {
				switch rapid.IntRange(0, 5).Draw(t, "change") {
				case 0:
					now[n] = 0
				case 1, 2:
					now[n] = revision
				}
			}
			history = append(history, now)
		}
		latest := int64(len(history) - 1)
		item := func(n int, revision int64) (Item, opened) {
			i := Item{Key: fmt.Sprint("name", n), Version: history[revision][n]}
			if i.Version != 0 {
				i.Value = []byte{layout, byte(i.Version)}
			}
			return i, opened{key: state.Key(fmt.Sprint("key", n)), value: []byte{byte(i.Version)}}
		}
		m := newMirror(nil)
		var known [names]int64 // the revision that was told of each
		watched := int64(0)
		told := func(n int, revision int64) {
			i, o := item(n, revision)
			if m.contradicted([]Item{i}, revision) {
				t.Fatalf("record %d at revision %d looks as if the engine went back", n, revision)
			}
			if i.Version == 0 {
				m.remove(i.Key, revision)
			} else {
				m.put(i, o)
			}
			known[n] = max(known[n], revision)
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"watch", "watch", "answer", "answer", "read"}).Draw(t, "what") {
			case "watch":
				if watched == latest {
					continue
				}
				watched++
				for n := range names {
					if history[watched][n] != history[watched-1][n] {
						told(n, watched)
					}
				}
				m.reached(watched)
			case "answer":
				told(rapid.IntRange(0, names-1).Draw(t, "name"), rapid.Int64Range(0, latest).Draw(t, "revision"))
			case "read":
				watched = rapid.Int64Range(watched, latest).Draw(t, "revision")
				var items []Item
				var all []opened
				for n := range names {
					if i, o := item(n, watched); i.Version != 0 {
						items, all = append(items, i), append(all, o)
					}
				}
				if m.contradicted(items, watched) {
					t.Fatalf("revision %d looks as if the engine went back", watched)
				}
				m.replace(items, all, watched)
			}
			for n := range names {
				known[n] = max(known[n], watched)
				want := history[known[n]][n]
				var have int64
				if r := m.names[fmt.Sprint("name", n)]; r != nil {
					have = r.version
				}
				if have != want || (m.keys[state.Key(fmt.Sprint("key", n))] != nil) != (want != 0) {
					t.Fatalf("record %d has version %d, want %d", n, have, want)
				}
			}
			if list := m.list(""); len(list) != len(m.names) {
				t.Fatalf("%v", list)
			}
		}
		for name, at := range m.gone {
			if at <= m.through {
				t.Fatalf("%s is remembered though nothing of it can come", name)
			}
		}
	})
}
