package selection

import (
	"fmt"
	"strings"
)

// Default is the strategy of a service that names none.
const Default = "spread"

// strategies is the registry, in the order in which help texts list it.
var strategies = []Strategy{
	Spread{},
	Weighted{},
	Freshest{},
	LongestLived{},
	Random{},
}

// Lookup returns the strategy of that name; the empty name stands for Default.
func Lookup(name string) (Strategy, error) {
	if name == "" {
		name = Default
	}
	for _, s := range strategies {
		if s.Name() == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("unknown strategy %q, want one of %s", name, strings.Join(Names(), ", "))
}

// Names lists the strategies, the default first.
func Names() []string {
	names := make([]string, len(strategies))
	for i, s := range strategies {
		names[i] = s.Name()
	}
	return names
}
