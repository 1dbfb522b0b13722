package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"onionbalancer/internal/printable"
)

// printDescriptor writes a descriptor for people: one table of what it says as
// a whole, then one of its introduction points.
func printDescriptor(out io.Writer, f *foundDescriptor) error {
	v := newDescriptorView(f)
	printable.Fields(&v)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("address", v.Address)
	row("period", f.keys.Period)
	row("blinded key", v.Blinded)
	row("revision counter", v.Revision)
	row("size", fmt.Sprintf("%d bytes", v.Size))
	row("lifetime", fmt.Sprintf("%d minutes", v.Lifetime))
	row("signing key", v.SigningKey)
	row("certificate until", v.SigningCert.Expires.Format(time.RFC3339))
	row("client entries", v.AuthCount)
	row("needs client key", yesNo(v.NeedsKey))
	row("handshakes", formats(v.Create2))
	row("introduction auth", orNone(strings.Join(v.IntroAuth, " ")))
	row("single onion", yesNo(v.SingleOnion))
	flow := ""
	if v.FlowControl != nil {
		flow = *v.FlowControl
	}
	row("flow control", orNone(flow))
	row("proof of work", orNone(strings.Join(v.PowParams, "; ")))
	row("introduction points", v.PointCount)
	if err := w.Flush(); err != nil {
		return err
	}
	if err := printPoints(out, v); err != nil {
		return err
	}
	for _, d := range v.Dropped {
		if _, err := fmt.Fprintf(out, "left out: introduction point, line %d, %q: %s\n", d.Line, d.Keyword, d.Error); err != nil {
			return err
		}
	}
	return nil
}

func printPoints(out io.Writer, v descriptorView) error {
	if len(v.Points) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "\n#\tRELAY\tAT\tAUTH-KEY\tUNTIL\tNOTE\n")
	for i, p := range v.Points {
		var at []string
		for _, s := range p.Specifiers {
			if s.Address != "" {
				at = append(at, fmt.Sprintf("%s:%d", s.Address, s.Port))
			}
		}
		note := ""
		if p.Legacy {
			note = "legacy key"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", i+1, shortHex(p.Relay), strings.Join(at, " "), shortHex(p.AuthKey), p.Expires.Format(time.RFC3339), note)
	}
	return w.Flush()
}

// shortHex shows enough of a key to tell keys apart; --json prints the whole.
func shortHex(s string) string {
	const n = 16
	if _, err := hex.DecodeString(s); err != nil || len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func formats(numbers []int) string {
	var words []string
	for _, n := range numbers {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, " ")
}
