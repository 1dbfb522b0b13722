package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDescriptorWithCRLF: of a descriptor that went through a Windows editor the
// line ends are named, with the command that mends them.
func TestDescriptorWithCRLF(t *testing.T) {
	good, _ := showVectors(t)
	v := good[0]
	args := v.args()
	args = args[:len(args)-1]
	raw, err := os.ReadFile(filepath.Join(descriptorVectors, v.File))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "crlf.txt")
	crlf := bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
	if err := os.WriteFile(path, crlf, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, mend := range map[string]string{path: "tr -d '\\r' < " + path, "-": "tr -d '\\r'"} {
		for _, command := range []string{"show", "verify"} {
			_, err := runDescriptor(t, crlf, append(append([]string{command}, args...), name)...)
			if err == nil || !strings.HasSuffix(err.Error(), ": it has Windows line ends (CRLF), which no client takes; without them: "+mend) {
				t.Errorf("%s %s: %v", command, name, err)
			}
		}
	}
	mended, err := exec.CommandContext(t.Context(), "sh", "-c", "tr -d '\\r' < "+path).Output()
	if err != nil || !bytes.Equal(mended, raw) {
		t.Errorf("the command does not mend it: %v", err)
	}
}
