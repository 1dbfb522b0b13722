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

// TestLinkedShards: an instance of a shard is not another's, nor a service's.
func TestLinkedShards(t *testing.T) {
	shard := func(name, address string) string {
		return "[[shard]]\nname = \"" + name + "\"\ncustomers = \"" + name + "\"\n[[shard.instance]]\nname = \"web1\"\naddress = \"" + address + "\"\n"
	}
	service := "[[service]]\nkey = \"one\"\n[[service.instance]]\nname = \"web1\"\naddress = \"" + addressA + "\"\n"
	for text, want := range map[string]string{
		shard("s1", addressA) + shard("s2", addressB):           "",
		shard("s1", addressA) + shard("s2", addressA):           "web1 of shard s1 and web1 of shard s2 are one backend, zkorpc…",
		service + shard("s1", addressB):                         "",
		service + shard("s1", addressA):                         "web1 of service 1 and web1 of shard s1 are one backend",
		service + shard("s1", addressA) + shard("s2", addressA): "web1 of service 1 and web1 of shard s1 and web1 of shard s2 are",
	} {
		got := strings.Join(parse(t, text).Linked(), "\n")
		if (got == "") != (want == "") || !strings.Contains(got, want) || got != "" && !strings.Contains(got, "its ob_config needs the addresses of all") {
			t.Errorf("%s\nwarns %q, want %q", text, got, want)
		}
	}
}
