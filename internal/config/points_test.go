package config

import (
	"slices"
	"strings"
	"testing"
)

// TestPoints: rules about relays are taken in all the forms of a table, and are then
// written alike.
func TestPoints(t *testing.T) {
	const instance = "\n[[service.instance]]\naddress = \"" + addressA + "\"\nweight = 2\n"
	const fingerprint = "00112233445566778899aabbccddeeff00112233"
	for _, text := range []string{
		"strategy = \"exec:/usr/lib//weigh\"\n[service.points]\navoid = [\"{DE}\", \"family:" + fingerprint + "\"]\nprefer = \"flag:stable\"",
		"points = { avoid = [\"{de}\", \"family:$" + fingerprint + "\"], prefer = [\"FLAG:Stable\"] }\nstrategy = \"exec:/usr/lib/weigh\"",
		"points.avoid = [\n\"{de}\",\n\"Family:" + fingerprint + "\",\n]\npoints.prefer = \"flag:Stable\"\nstrategy = \"exec:/usr/lib/./weigh\"",
	} {
		s := parse(t, "[[service]]\nkey = \"a\"\n"+text+instance).Services[0]
		if !slices.Equal(s.Points.Avoid, []string{"{de}", "family:$00112233445566778899AABBCCDDEEFF00112233"}) || !slices.Equal(s.Points.Prefer, []string{"flag:Stable"}) {
			t.Errorf("%s\nis read as %q", text, s.Points)
		}
		if s.Strategy != "exec:/usr/lib/weigh" {
			t.Errorf("strategy %q", s.Strategy)
		}
	}
}

// TestProfile: an ordinary service has three points unless more are asked for.
func TestProfile(t *testing.T) {
	const instance = "\n[[service.instance]]\naddress = \"" + addressA + "\"\n"
	for text, want := range map[string]int{
		"": 20, "profile = \"balanced\"": 20, "profile = \"balanced\"\nmax_introduction_points = 2": 2,
		"profile = \"ordinary\"": 3, "max_introduction_points = 3\nprofile = \"ordinary\"": 3, "profile = \"ordinary\"\nmax_introduction_points = 8": 8,
	} {
		s := parse(t, "[[service]]\nkey = \"a\"\n"+text+instance).Services[0]
		if ordinary := strings.Contains(text, ProfileOrdinary); s.MaxIntroductionPoints != want || ordinary != (s.Profile == ProfileOrdinary) {
			t.Errorf("%q: profile %q with %d points, want %d", text, s.Profile, s.MaxIntroductionPoints, want)
		}
	}
}
