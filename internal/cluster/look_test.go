package cluster

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

func TestLookAt(t *testing.T) {
	entry := func(key state.Key, value any) state.Entry {
		raw, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return state.Entry{Key: key, Version: 1, Value: raw}
	}
	a, b, c, d := descriptor.Address{1}, descriptor.Address{2}, descriptor.Address{3}, descriptor.Address{4}
	now := time.Now()
	made := func(ago time.Duration) []state.Made { return []state.Made{{Built: now.Add(-ago)}} }
	m1, m2 := Member{Manager: "m1", Owned: 4}, Member{Manager: "m2"}
	got := LookAt(now, []state.Entry{
		entry(memberKey("m1"), m1), entry(memberKey("m2"), m2), entry(memberKey("m3"), "no member"),
		entry(state.ServiceKey(a), state.Service{Owner: "m2", Made: made(0)}), entry(state.ServiceKey(b), state.Service{Owner: "m3", Made: made(time.Hour)}),
		entry(state.ServiceKey(c), state.Service{Made: made(2 * time.Hour)}), entry(state.ServiceKey(d), state.Service{Made: made(25 * time.Hour)}),
		entry("operator/x", "a word"),
	})
	want := Look{Members: []Member{m1, m2}, Services: 4, Unowned: []descriptor.Address{b, c}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
