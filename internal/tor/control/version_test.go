package control

import "testing"

func TestCheckVersion(t *testing.T) {
	for _, good := range []string{"0.4.8", "0.4.8.1-alpha", "0.4.9.11", "0.4.10.1", "0.5.0.1", "1.0.0"} {
		if err := CheckVersion(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "0.4", "0.4.7.16", "0.3.9.9", "0.x.9.1", "tor"} {
		if CheckVersion(bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
