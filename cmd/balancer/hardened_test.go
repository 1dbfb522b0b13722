package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestBinaryIsHardened looks at the program that make built: its text is placed
// at random, and the loader's tables are read-only once it runs.
func TestBinaryIsHardened(t *testing.T) {
	path := os.Getenv("BALANCER_BINARY")
	if path == "" {
		t.Skip("BALANCER_BINARY does not name the program that make built; make test sets it")
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_DYN {
		t.Errorf("it is no position-independent executable: %v", f.Type)
	}
	segments := make(map[elf.ProgType]elf.ProgFlag)
	for _, p := range f.Progs {
		segments[p.Type] |= p.Flags
		if p.Type == elf.PT_LOAD && p.Flags&(elf.PF_W|elf.PF_X) == elf.PF_W|elf.PF_X {
			t.Errorf("a segment at %#x can be written and executed", p.Vaddr)
		}
	}
	if _, relro := segments[elf.PT_GNU_RELRO]; !relro {
		t.Error("no part of it becomes read-only after relocation (RELRO)")
	}
	if flags, there := segments[elf.PT_GNU_STACK]; !there || flags&elf.PF_X != 0 {
		t.Error("its stack can be executed")
	}
	flags, err := f.DynValue(elf.DT_FLAGS)
	if err != nil || len(flags) == 0 || elf.DynFlag(flags[0])&elf.DF_BIND_NOW == 0 {
		t.Errorf("its symbols are bound late, which leaves their table writable: %v, %v", flags, err)
	}
	if text, err := f.DynValue(elf.DT_TEXTREL); err != nil || len(text) > 0 {
		t.Errorf("its text is relocated: %v, %v", text, err)
	}
	out, err := exec.CommandContext(t.Context(), path, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "balancer ") {
		t.Errorf("it does not run: %q, %v", out, err)
	}
}
