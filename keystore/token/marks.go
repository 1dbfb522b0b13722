package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"onionbalancer/internal/openfile"
	"onionbalancer/keystore/token/pin"
)

// mark remembers, over processes, that a token refused the PIN in a file. It
// names the file as it was, and nothing of what was in it: a PIN has so few
// digits that every hash of it is tried out in no time, however slow and salted,
// and one that a token refused is seldom worth nothing. It is the right one but
// for a slip, or that of another token. So a file that was written again counts
// as another PIN, and is tried.
type mark struct {
	Module  string         `json:"module"`
	Token   Selector       `json:"token"`
	File    string         `json:"file"`
	Stamp   openfile.Stamp `json:"stamp"`
	Refused time.Time      `json:"refused"`
}

func (m mark) overlaps(p place) bool {
	return place{file: m.Module, selector: m.Token}.overlaps(p)
}

// marksFile is the file of marks in a state directory.
const marksFile = "refused-pins.json"

// RememberIn has refused PINs remembered in dir, for processes to come. A PIN
// that is in no file cannot be: there the token's own count of wrong PINs, if it
// tells that it counts one, keeps later processes from trying.
func RememberIn(dir string) {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	refusals.marks = filepath.Join(dir, marksFile)
}

// TryPIN has PINs tried in this process that an earlier one may have seen
// refused, since an operator says so.
func TryPIN() {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	refusals.asked = true
}

// pinFile is the file of a PIN as it was before it was read; the zero value is a
// PIN from elsewhere.
type pinFile struct {
	path  string
	stamp openfile.Stamp
}

func fileOf(source pin.Source) pinFile {
	path, ok := source.File()
	if !ok {
		return pinFile{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return pinFile{} // reading it says why
	}
	return pinFile{path, openfile.StampOf(info)}
}

// marked returns an error if an earlier process saw the PIN of the file refused.
func (p place) marked(from pinFile) error {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	for _, m := range readMarks() {
		if m.overlaps(p) && (pinFile{m.File, m.Stamp}) == from && !refusals.asked {
			return Errorf(CodePIN, "the token refused the PIN in this file at %s UTC, and the file is the same since: write the right one into it, or, if the token was given this one meanwhile, run: balancer check --try-pin",
				m.Refused.UTC().Format(time.DateTime))
		}
	}
	return nil
}

// meet takes note of the first PIN that this process has for a token. If the
// token counts a wrong one, it may have been this, tried by another process;
// unless it is known which one that was, or a person wants it to be tried.
func (p place) meet(pin fingerprint, wanted bool) {
	refusals.mu.Lock()
	defer refusals.mu.Unlock()
	if refusals.met[p] {
		return
	}
	refusals.met[p] = true
	known := slices.ContainsFunc(readMarks(), func(m mark) bool { return m.overlaps(p) })
	if !known && !wanted && !refusals.asked {
		refusals.doubted = with(refusals.doubted, attempt{p, pin})
	}
}

// setMarkLocked replaces what is remembered of a token by the refusal of a
// file's PIN; by nothing if from is zero.
func (p place) setMarkLocked(from pinFile) {
	before := readMarks()
	marks := slices.DeleteFunc(slices.Clone(before), func(m mark) bool { return m.overlaps(p) })
	if from != (pinFile{}) {
		marks = append(marks, mark{p.file, p.selector, from.path, from.stamp, time.Now().UTC().Truncate(time.Second)})
	}
	if refusals.marks == "" || len(before)+len(marks) == 0 {
		return
	}
	raw, err := json.Marshal(marks)
	if err == nil {
		err = renameio.WriteFile(refusals.marks, raw, 0o600)
	}
	if err != nil {
		slog.Warn("a refused PIN is remembered by this process alone", "error", err)
	}
}

// readMarks returns what earlier processes left. What cannot be read is no mark:
// the worst that follows is one more try.
func readMarks() (marks []mark) {
	if refusals.marks == "" {
		return nil
	}
	raw, err := os.ReadFile(refusals.marks)
	if err == nil {
		err = json.Unmarshal(raw, &marks)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Warn("what was remembered of refused PINs cannot be read", "error", fmt.Errorf("reading %s: %w", refusals.marks, err))
		return nil
	}
	return marks
}
