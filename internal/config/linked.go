package config

import (
	"fmt"
	"strings"

	"onionbalancer/descriptor"
)

// Linked returns a warning for each instance that several services share. Their
// descriptors then list the same introduction points, so that whoever knows both
// addresses sees that they belong together.
func (c *Config) Linked() (warnings []string) {
	names := make(map[descriptor.Address][]string)
	var order []descriptor.Address
	for n, s := range c.Services {
		for _, i := range s.Instances {
			if names[i.Address] == nil {
				order = append(order, i.Address)
			}
			names[i.Address] = append(names[i.Address], fmt.Sprintf("%s of service %d", i.Name, n+1))
		}
	}
	for _, a := range order {
		if list := names[a]; len(list) > 1 {
			warnings = append(warnings, fmt.Sprintf("%s are one backend, %s: whoever knows the public addresses sees that they belong together; "+
				"give each service backends of its own if that must not be known", strings.Join(list, " and "), a.Short()))
		}
	}
	return warnings
}
