package config

import (
	"strings"
	"testing"
)

func TestLinked(t *testing.T) {
	const a, b = "ifngclrc6drvj6mijdfqkfnpdzbandck4cxsh4tu3eecdlr26nmnhxid.onion", "mnzivix6alclnmg2f72h4outxxjzwcgd64osvc4xrfagvdfcs2kmphyd.onion"
	text := func(second string) string {
		return "[[service]]\nkey = \"one\"\n[[service.instance]]\nname = \"web1\"\naddress = \"" + a + "\"\n" +
			"[[service]]\nkey = \"two\"\n[[service.instance]]\nname = \"backend\"\naddress = \"" + second + "\"\n"
	}
	for second, want := range map[string]int{a: 1, b: 0} {
		c, err := Parse([]byte(text(second)), "/etc/balancer/balancer.toml")
		if err != nil {
			t.Fatal(err)
		}
		got := c.Linked()
		if len(got) != want || want > 0 && (!strings.Contains(got[0], "web1 of service 1 and backend of service 2 are one backend, ifngcl") || strings.Contains(got[0], a)) {
			t.Errorf("%q, want %d", got, want)
		}
	}
}
