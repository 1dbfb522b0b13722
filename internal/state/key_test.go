package state_test

import (
	"strings"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
)

// Errors show no whole address.
func TestKeyString(t *testing.T) {
	a := descriptor.Address{1, 2, 3}
	if got, want := state.CustomerKey(a).String(), "customer/"+a.Short(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := state.ClaimsKey(descriptor.Period{Number: 7, Length: 1440}).String(); !strings.HasPrefix(got, "claims/") || strings.Contains(got, "…") {
		t.Error(got)
	}
	if err := error(&state.ConflictError{Key: state.ServiceKey(a)}); strings.Contains(err.Error(), a.Label()) {
		t.Error(err)
	}
}
