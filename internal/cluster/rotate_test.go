package cluster

import "testing"

// TestRotate: a key is replaced in three steps, each of which opens what the one before
// sealed.
func TestRotate(t *testing.T) {
	one := NewKey()
	for name, step := range map[string]func() (*Key, error){"Turn": one.Turn, "Drop": one.Drop} {
		if _, err := step(); err == nil {
			t.Errorf("%s of a key with one half", name)
		}
	}
	two, err := one.Add()
	if err != nil {
		t.Fatal(err)
	}
	turned, err := two.Turn()
	if err != nil {
		t.Fatal(err)
	}
	last, err := turned.Drop()
	if err != nil {
		t.Fatal(err)
	}
	if !two.seals[0].Equal(one.seals[0]) || !turned.seals[0].Equal(two.seals[1]) || !turned.seals[1].Equal(two.seals[0]) ||
		len(last.seals) != 1 || !last.seals[0].Equal(two.seals[1]) || !last.names.Equal(one.names) {
		t.Error("not the halves that they should be")
	}
}
