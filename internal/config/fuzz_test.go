package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"onionbalancer/internal/advice"
	"onionbalancer/internal/relayset"
	"onionbalancer/selection"
)

// FuzzParse: nothing panics, every error is an *Error, and what is accepted is
// complete.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds")
	}
	for _, path := range append(files, "../../doc/balancer.example.toml") {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data, "/etc/balancer.toml")
		if err != nil {
			if known := (&Error{}); !errors.As(err, &known) || known.File != "/etc/balancer.toml" {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if len(c.Services) == 0 || !filepath.IsAbs(c.StateDir) {
			t.Fatalf("%+v", c)
		}
		for _, s := range c.Services {
			_, err := selection.Lookup(s.Strategy)
			if program, is := advice.Program(s.Strategy); is && filepath.IsAbs(program) {
				err = nil
			}
			if _, bad := relayset.ParseSet(slices.Concat(s.Points.Avoid, s.Points.Prefer)); bad != nil {
				t.Fatal(bad)
			}
			if err != nil || s.Key == "" || s.MaxIntroductionPoints < 1 || s.MaxIntroductionPoints > 20 || len(s.Instances) == 0 {
				t.Fatalf("%+v, %v", s, err)
			}
			names := make(map[string]bool)
			for _, i := range s.Instances {
				if i.Name == "" || names[i.Name] || i.Address.Validate() != nil || i.Weight < 0 {
					t.Fatalf("%+v", i)
				}
				names[i.Name] = true
			}
		}
	})
}
