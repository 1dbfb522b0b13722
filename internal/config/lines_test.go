package config

import (
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestLocate(t *testing.T) {
	const document = `# a comment = 1
a = """
b = 2
\""""" # c = 3
'quoted key' = '''
[x]
''' # two more lines
"d" = [1, # a comment ]
  { e = 2, f = "}" },
  "]"]
g.h = { i.j = 1 }

[[k]]
l = 1
[[k.m]]
n = 2
[[k.m]]
n = '\'
[k.o]
p = 2026-11-20T00:00:00Z
[[k]] # again
  [[ k . m ]]
  n = 3
[t]
q = ["""
[""", 1]
r = 2
`
	found, tooDeep := locate(document)
	if tooDeep != 0 {
		t.Errorf("too deep in line %d", tooDeep)
	}
	want := lines{
		"a": 2, "quoted key": 5, "d": 8, "d[0]": 8, "d[1]": 9, "d[1].e": 9, "d[1].f": 9, "d[2]": 10, "g.h": 11, "g.h.i.j": 11,
		"k": 13, "k[0]": 13, "k[0].l": 14, "k[0].m[0]": 15, "k[0].m[0].n": 16, "k[0].m[1]": 17, "k[0].m[1].n": 18,
		"k[0].o": 19, "k[0].o.p": 20, "k[1]": 21, "k[1].m[0]": 22, "k[1].m[0].n": 23, "t.q": 25, "t.r": 27,
	}
	for path, line := range want {
		if got := found.of(path); got != line {
			t.Errorf("%s in line %d, want %d", path, got, line)
		}
	}
	for _, missing := range []string{"b", "x", "c", "f"} {
		if found[missing] != 0 {
			t.Errorf("%s in line %d, and is no key", missing, found[missing])
		}
	}
	for path, line := range map[string]int{"k[1].m[0].absent": 22, "k[1].absent.deep": 21, "absent": 0} {
		if got := found.of(path); got != line {
			t.Errorf("%s would be in line %d, want %d", path, got, line)
		}
	}
}

// FuzzLocate: every line is one of the document, and every table and key that
// begins a line is found.
func FuzzLocate(f *testing.F) {
	f.Add("a = 1\n[b]\nc.d = [{e = 'f'}, '''g\n''']\n[[h]]\n[[h.i]]\nj = \"\"\"k\\\"\"\"\"")
	f.Add("a = [\n1, # ]\n[2]]\r\nb.c=2\n[b.d]\n")
	f.Fuzz(func(t *testing.T, document string) {
		found, tooDeep := locate(document)
		if tooDeep > 0 || len(document) > 4096 {
			return
		}
		meta, err := toml.Decode(document, &map[string]any{})
		if err != nil {
			return
		}
		text := strings.Split(document, "\n")
		seen := make(map[string]bool)
		for path, line := range found {
			seen[withoutIndexes(path)] = true
			if line < 1 || line > len(text) {
				t.Fatalf("%s in line %d of %d", path, line, len(text))
			}
		}
		if strings.ContainsAny(document, "\"'{") {
			return // quoted keys, texts of several lines, and tables within a line
		}
		for _, key := range meta.Keys() {
			if path := strings.Join(key, "."); !seen[path] {
				t.Fatalf("%q is in none of %v", path, found)
			}
		}
	})
}
