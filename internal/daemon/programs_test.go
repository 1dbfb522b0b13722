package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckProgram: check asks a strategy's program once, and says what came of it. What
// is no program, or what others can change, is not even run.
func TestCheckProgram(t *testing.T) {
	dir, err := os.MkdirTemp("", "programs") // where nobody may go, too
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "weigh")
	if err := errors.Join(os.Chmod(dir, 0o755), os.MkdirAll(filepath.Join(dir, "state"), 0o700)); err != nil {
		t.Fatal(err)
	}
	writeKey(t, filepath.Join(dir, "front"), 1)
	const instance = "[[service.instance]]\nname = \"web1\"\naddress = \"zkorpcleemqj5fkprbp7k7no4sio4qrrmy72zwixbn7dhhwruajlcqid.onion\"\n" +
		"[[service.instance]]\nname = \"web2\"\nweight = 2\naddress = \"cf5mytdfe5ldzihkeiksupcesqgk5cdvdfwymtapb2ktmlftxbfjcaid.onion\"\n"
	cfg := parse(t, dir, "state_dir = \"state\"\n[[service]]\nkey = \"front\"\nstrategy = \"exec:"+program+"\"\n"+instance)
	ran := filepath.Join(dir, "ran")
	for _, test := range []struct {
		body string
		mode fs.FileMode
		want string
	}{
		{`grep -q '"example":true.*"name":"web2","weight":2,"load":null' && echo '{"weights": {"web1": 0.5}}'`, 0o755, "weights web1 0.5 (1 other keep their own)"},
		{"echo '{}'", 0o755, "no weights, so instances keep their own"},
		{"exit 7", 0o755, "exit status 7"},
		{`echo '{"weights": {"web3": 1}}'`, 0o755, "web3"},
		{"touch " + ran, 0o757, "strategy: " + program + " can be written by everybody"},
		{"touch " + ran, 0o644, "is not executable"},
	} {
		if err := errors.Join(os.RemoveAll(program), os.WriteFile(program, []byte("#!/bin/sh\n"+test.body+"\n"), 0o600), os.Chmod(program, test.mode)); err != nil {
			t.Fatal(err)
		}
		var found findings
		if err := Check(t.Context(), cfg, true, slog.New(slog.DiscardHandler), found.tell); err != nil || !strings.Contains(found.String(), test.want) {
			t.Errorf("%s: want %q in\n%s (%v)", test.body, test.want, found, err)
		}
	}
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	var found findings
	if err := Check(t.Context(), cfg, true, slog.New(slog.DiscardHandler), found.tell); err != nil || !strings.Contains(found.String(), "no such file") {
		t.Errorf("without it: %s (%v)", found, err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program was run that must not be")
	}
}
