package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"onionbalancer/internal/hosting/api"
	"onionbalancer/internal/hosting/api/apitest"
)

// What doc/hosting.md shows of the API is tried on a socket as the daemon's, and held
// against the description of the API.

// hostingBlock returns the only block of doc/hosting.md in a language that has a text.
func hostingBlock(t *testing.T, language, having string) block {
	t.Helper()
	list := slices.DeleteFunc(blocks(t, language, 1), func(b block) bool {
		return b.file != "doc/hosting.md" || !strings.Contains(b.text(), having)
	})
	if len(list) != 1 {
		t.Fatalf("%d blocks of %q have %q", len(list), language, having)
	}
	return list[0]
}

func TestDocsHostingCurl(t *testing.T) {
	b := hostingBlock(t, "sh", "curl ")
	socket := customerSocket(t, apitest.New(3, "s1"))
	if b.lines[0] != "S=/var/lib/balancer/status.sock" {
		t.Fatalf("the first line is %q", b.lines[0])
	}
	var kinds []string
	for _, line := range b.lines[1:] {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", strings.Replace(line, "curl -sS", "curl -sS --fail", 1))
		cmd.Env = append(os.Environ(), "S="+socket)
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) == 0 {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		for _, m := range regexp.MustCompile(`(?m)^event: (\w+)$`).FindAllStringSubmatch(string(out), -1) {
			kinds = append(kinds, m[1])
		}
	}
	if want := []string{"added", "confirmed", "suspended", "resumed", "removed"}; !slices.Equal(kinds, want) {
		t.Errorf("it did %q, want %q", kinds, want)
	}
}

// TestDocsHostingPython runs the client as it is, and then each of its methods.
func TestDocsHostingPython(t *testing.T) {
	b := hostingBlock(t, "python", "class Balancer")
	if len(b.lines) > 60 {
		t.Errorf("it has %d lines", len(b.lines))
	}
	host := &slowHost{Host: apitest.New(300, "s1", "s2"), patience: 1}
	for n := range 250 {
		if _, _, err := host.Host.Add(t.Context(), fmt.Sprintf("c%03d", n), "", ""); err != nil {
			t.Fatal(err)
		}
	}
	socket, dir := customerSocket(t, host), t.TempDir()
	use := `
import sys
from panel import Balancer, Refused
b = Balancer(sys.argv[1])
assert b.add("shop")["address"] == b.show("shop")["address"]
assert b.suspend("shop")["state"] == "suspended"
assert [c["name"] for c in b.customers(state="suspended")] == ["shop"]
assert b.resume("shop")["state"] == "active"
assert len({c["name"] for c in b.customers(limit=60)}) == 251
assert b.remove("shop")["state"] == "removed"
assert len(list(b.customers())) == 250
try:
    b.show("no/body")
    sys.exit("shown")
except Refused as refused:
    assert refused.args[1] == "unknown_customer", refused
kinds = []
for event in b.events(last=500):
    kinds.append(event["kind"])
    if kinds[-1] == "removed":
        break
print(" ".join(kinds))
`
	for name, text := range map[string]string{"panel.py": b.text(), "use.py": use} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ want, script, name string }{
		{apitest.Address(251).String() + "\n", "panel.py", "shop"},
		{"added confirmed suspended resumed removed\n", "use.py", ""},
	} {
		cmd := exec.CommandContext(t.Context(), "python3", step.script, socket, step.name)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != step.want {
			t.Errorf("%s: %v, %q, want %q", step.script, err, out, step.want)
		}
	}
}

// TestDocsHostingAnswer: the answer that is shown has what a new customer has.
func TestDocsHostingAnswer(t *testing.T) {
	b := hostingBlock(t, "json", `"replicas_answer"`)
	var d api.Detail
	decoder := json.NewDecoder(strings.NewReader(b.text()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var shown, whole any
	if json.Unmarshal([]byte(b.text()), &shown) != nil || json.Unmarshal(again, &whole) != nil || !reflect.DeepEqual(shown, whole) {
		t.Errorf("shown is\n%s\nwhole it is\n%s", b.text(), again)
	}
}

// TestDocsHostingTables: the tables have the requests, codes and kinds of events that the
// description of the API has.
func TestDocsHostingTables(t *testing.T) {
	_, text, found := strings.Cut(readDoc(t, "doc/hosting.md"), "\n## The API\n")
	if !found {
		t.Fatal("no section")
	}
	var description struct {
		Paths      map[string]map[string]any
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Enum []string }
			}
		}
	}
	if err := json.Unmarshal([]byte(readDoc(t, "internal/hosting/api/openapi.json")), &description); err != nil {
		t.Fatal(err)
	}
	var requests, shown []string
	for path, methods := range description.Paths {
		for method := range maps.Keys(methods) {
			if method != "parameters" {
				requests = append(requests, strings.ToUpper(method)+" "+path)
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]+ /\\S+)` \\|").FindAllStringSubmatch(text, -1) {
		shown = append(shown, m[1])
	}
	if slices.Sort(requests); !slices.Equal(requests, slices.Sorted(slices.Values(shown))) {
		t.Errorf("shown are\n%q\nthere are\n%q", shown, requests)
	}
	var codes []string
	for _, row := range regexp.MustCompile(`(?m)^\| [45][0-9]{2} \|([^|]*)\|`).FindAllStringSubmatch(text, -1) {
		for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			codes = append(codes, m[1])
		}
	}
	schemas := description.Components.Schemas
	if want := schemas["Error"].Properties["code"].Enum; !slices.Equal(slices.Sorted(slices.Values(codes)), slices.Sorted(slices.Values(want))) {
		t.Errorf("shown are the codes %q, there are %q", codes, want)
	}
	_, events, _ := strings.Cut(text, "\n**Events**")
	for _, kind := range schemas["Event"].Properties["kind"].Enum {
		if !strings.Contains(events, "`"+kind+"`") {
			t.Errorf("no word about the event %q", kind)
		}
	}
}
