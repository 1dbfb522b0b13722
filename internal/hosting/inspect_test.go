package hosting

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestInspect(t *testing.T) {
	d := newDir(t)
	a, b := d.newKey(t, 1), d.newKey(t, 2)
	said := func() string {
		_, troubles, err := d.Inspect("s1", []string{"web1"})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%+v", troubles)
	}
	write := func() {
		lines, err := d.Lines()
		if err == nil {
			_, err = d.WriteLines("s1", "web1", lines)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		do   func() error
		want []string
		not  string
	}{
		{func() error { return nil }, []string{"no files were written for the replica web1", "2 keys wait", "shard installed s1"}, "lacks"},
		{func() error { write(); return nil }, []string{"2 keys wait"}, "web1"},
		{func() error { _, _, err := d.Install(); return err }, []string{"only 2 spare keys left"}, "lacks"},
		{func() error { d.newKey(t, 3); return nil }, []string{"web1 lacks 1 line of pending keys", "shard refill s1"}, "Bad:true"},
		{func() error { write(); return nil }, nil, "lacks"},
		{func() error { return d.Take(a, "shop") }, nil, "lacks"},
		{func() error { return d.Take(b, "blog") }, []string{"no spare key", "1 key wait"}, "Bad:true"},
		{func() error { _, err := d.WriteLines("s1", "web1", numbered(2)); return err }, []string{"web1 lacks 2 lines that it should answer for", "Bad:true"}, "no files"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		got := said()
		if slices.ContainsFunc(step.want, func(part string) bool { return !strings.Contains(got, part) }) || strings.Contains(got, step.not) || step.want == nil && got != "[]" {
			t.Errorf("%s, want %q and not %q", got, step.want, step.not)
		}
	}
	s, _, err := d.Inspect("s1", nil)
	if want := (Shard{Name: "s1", Active: 2, Pending: 1}); err != nil || s != want {
		t.Errorf("%+v, %v, want %+v", s, err, want)
	}
}

func TestTroubles(t *testing.T) {
	for _, test := range []struct {
		s    Shard
		want string
	}{
		{Shard{Active: 475, Spares: 25}, "[]"},
		{Shard{Active: 450, Suspended: 10, Removed: 10, Spares: 20, Pending: 11}, "501 addresses: each introduction, whomever it is for, costs a replica's tor 7 ms"},
		{Shard{Name: "s1", Active: 3}, "no spare key, so no customer can be added Fix:balancer shard refill s1"},
		{Shard{Name: "s1", Spares: FewSpares - 1}, "only 4 spare keys left for new customers Fix:balancer shard refill s1"},
		{Shard{Name: "s1", Spares: FewSpares}, "[]"},
		{Shard{Name: "s1", Spares: FewSpares - 1, Pending: 20}, "[]"}, // it is being done
	} {
		if got := fmt.Sprintf("%+v", test.s.Troubles()); !strings.Contains(got, test.want) {
			t.Errorf("%+v: %s, want %s", test.s, got, test.want)
		}
	}
}
