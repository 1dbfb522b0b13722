package hosting

import (
	"encoding/json"
	"os"
	"testing"
)

// The page and the drawings are those that the program makes of the figures.
func TestPage(t *testing.T) {
	t.Chdir("../..")
	raw, err := os.ReadFile(Figures)
	if err != nil {
		t.Fatal(err)
	}
	var runs []Result
	if err := json.Unmarshal(raw, &runs); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(Page)
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(string(page), runs)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range files {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is not what make bench-hosting would write (%v)", path, err)
		}
	}
	for _, r := range runs {
		if r.Oldest > allowed {
			t.Errorf("the figures show what may not be: %+v", r)
		}
	}
}
