package token

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"onionbalancer/internal/locked"
)

// logged returns what a pump that got these writes puts into the log.
func logged(t *testing.T, level slog.Level, pin string, writes ...string) string {
	t.Helper()
	var log bytes.Buffer
	p := &pump{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level})), pin: fingerprintOf(locked.Copy([]byte(pin)))}
	for _, w := range writes {
		if n, err := p.Write([]byte(w)); n != len(w) || err != nil {
			t.Errorf("%d bytes written, %v", n, err)
		}
	}
	p.flush()
	return log.String()
}

func TestPump(t *testing.T) {
	got := logged(t, slog.LevelDebug, "7531", "one\ntw", "o\n\n\xff\x00three")
	for _, want := range []string{"text=one\n", "text=two\n", `text="�\x00three"`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if n := strings.Count(got, "level=DEBUG"); n != 3 {
		t.Errorf("%d lines", n)
	}
	if got := logged(t, slog.LevelInfo, "7531", "one\n"); got != "" {
		t.Errorf("at the level info: %q", got)
	}
	got = logged(t, slog.LevelDebug, "7531", strings.Repeat("x", 10_000), "\n")
	if n := strings.Count(got, "x"); n < maxLine || n > maxLine+10 { // there are some in the words around
		t.Errorf("%d bytes of a long line", n)
	}
	got = logged(t, slog.LevelDebug, "7531", strings.Repeat("line\n", 1000))
	if n := strings.Count(got, "\n"); n != maxLines+1 || !strings.Contains(got, "more than is logged") {
		t.Errorf("%d lines of 1000", n)
	}
}

func TestPumpHidesPIN(t *testing.T) {
	const pin = "geheim-7531"
	digits := hex.EncodeToString([]byte(pin))
	spaced := ""
	for i := 0; i < len(digits); i += 2 {
		spaced += fmt.Sprintf("0x%s, ", digits[i:i+2])
	}
	for _, line := range []string{
		pin, "C_Login(1, " + pin + ")", "raw: 0" + digits, "apdu: 00 20 00 80 08 " + strings.ToUpper(spaced),
		strings.ReplaceAll(spaced, "0x", ""), "a\n" + pin + "\nb",
	} {
		got := logged(t, slog.LevelDebug, pin, line)
		if strings.Contains(got, "7531") || strings.Contains(strings.ToLower(got), digits[:8]) || !strings.Contains(got, "left out") {
			t.Errorf("%q is logged as %q", line, got)
		}
	}
	if got := logged(t, slog.LevelDebug, pin, "geheim-75", "31 in two parts\n"); strings.Contains(got, "geheim") {
		t.Error(got)
	}
	if got := logged(t, slog.LevelDebug, "", "no PIN, no secret\n"); !strings.Contains(got, "no secret") {
		t.Error(got)
	}
}

func TestOverlaps(t *testing.T) {
	a := pinTarget{"/link.so", "/m.so", Selector{Label: "a"}}
	for want, others := range map[bool][]pinTarget{
		true:  {a, {"/m.so", "/m.so", Selector{}}, {"/m.so", "/m.so", Selector{Serial: "1"}}, {"/m.so", "/m.so", Selector{Label: "a", Model: "m"}}},
		false: {{"/n.so", "/n.so", Selector{Label: "a"}}, {"/m.so", "/m.so", Selector{Label: "b"}}, {"/m.so", "/m.so", Selector{Label: "b", Serial: "1"}}},
	} {
		for _, b := range others {
			if a.overlaps(b) != want || b.overlaps(a) != want {
				t.Errorf("%v and %v: not %v", a, b, want)
			}
		}
	}
}

// TestOrder: requests get their turn in the order in which they came.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &helper{turn: make(chan struct{}, 1)}
		if err := h.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		var order []int // guarded by the turn
		for i := range 6 {
			go func() {
				if err := h.wait(t.Context()); err != nil {
					t.Error(err)
				}
				order = append(order, i)
				<-h.turn
			}()
			synctest.Wait() // until it is in line
		}
		<-h.turn
		synctest.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 3, 4, 5}) {
			t.Errorf("served in the order %v", order)
		}
	})
}
