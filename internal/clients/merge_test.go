package clients

import (
	"maps"
	"testing"
)

// TestMerge: what changed here and what changed there are both made.
func TestMerge(t *testing.T) {
	of := func(numbers ...int) Named {
		var list []Client
		for _, n := range numbers {
			list = append(list, client(n))
		}
		return NamedOf(list)
	}
	for _, test := range []struct{ base, ours, theirs, want Named }{
		{nil, of(1, 2), nil, of(1, 2)},
		{of(1, 2), of(1, 2), of(1, 2), of(1, 2)},
		{of(1, 2), of(1, 2, 3), of(1, 2), of(1, 2, 3)},
		{of(1, 2), of(1), of(1, 2), of(1)},
		{of(1, 2), of(1, 2), of(1, 3), of(1, 3)},
		{of(1, 2), of(2, 3), of(1, 4), of(3, 4)},
	} {
		if got := Merge(test.base, test.ours, test.theirs); !maps.Equal(got, test.want) {
			t.Errorf("%v, %v, %v: %v, want %v", test.base, test.ours, test.theirs, got, test.want)
		}
	}
	changed := of(1)
	changed["c001"] = client(9).Key
	if got := Merge(of(1), changed, of(1, 2)); got["c001"] != client(9).Key || len(got) != 2 {
		t.Errorf("another key: %v", got)
	}
	// And a directory becomes what was merged.
	dir := t.TempDir()
	write(t, dir, "c001.auth", client(1).Key.String())
	write(t, dir, "c002.auth", client(2).Key.String())
	changed["c003"] = client(3).Key
	if err := Write(dir, of(1, 2), changed); err != nil {
		t.Error(err)
	}
	list, err := Read(dir)
	if err != nil || !maps.Equal(NamedOf(list), changed) {
		t.Errorf("%v, %v; want %v", list, err, changed)
	}
	if err := Write(dir, changed, Named{"../c001": client(1).Key, "c003": client(3).Key}); err == nil {
		t.Error("a name that is a path was written")
	}
}
