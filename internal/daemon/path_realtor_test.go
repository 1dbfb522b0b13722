package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/probe"
	"onionbalancer/internal/status"
	"onionbalancer/testnet/lab"
)

// TestPathOnRealTor visits the public address until each instance is known to be
// reached, adds the line of a probe address and has it answer, and takes the line of the
// public address away from another instance.
func TestPathOnRealTor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Minute)
	defer cancel()
	w, addresses := newTown(ctx, t, lab.Config{Instances: 2}, "a")
	public := addresses[0]
	options := "\n[check]\nprobe = true\ninterval = \"2s\"\nfast_interval = \"1s\"\ntimeout = \"5s\"\npublic_interval = \"3s\"\nrate = 10\n"
	text := w.ServiceConfig("state", fmt.Sprintf("control = %q", w.Net.ControlTarget(lab.Manager)), "a", "fetch_interval = \"15s\"") + options
	d, err := New(parse(t, w.Dir, text), "test", slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	began := time.Now()
	await := func(what string, wanted func(instances []status.Instance) bool) {
		t.Helper()
		for {
			s := d.Snapshot().Services[0]
			if ctx.Err() != nil {
				t.Fatalf("not %s: %+v, warnings %q, last visit: %s", what, s.Instances, s.Warnings, s.VisitError)
			}
			if len(s.Instances) == 2 && wanted(s.Instances) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Logf("%s after %v", what, time.Since(began).Round(time.Second))
		began = time.Now()
	}
	await("all visited", func(instances []status.Instance) bool {
		return !instances[0].Visited.IsZero() && !instances[1].Visited.IsZero()
	})

	first, err := descriptor.ParseAddress(w.Instances[0].Address())
	if err != nil {
		t.Fatal(err)
	}
	address, _, _ := d.probes.Of(first)
	w.obConfig(ctx, t, 0, public, address)
	await("probe address visited", func([]status.Instance) bool {
		known := d.probes.path(first)
		return !known.Answered().IsZero()
	})

	w.obConfig(ctx, t, 1, address) // another's probe address: it may not be empty
	await("left out without the line", func(instances []status.Instance) bool {
		return instances[1].Published == 0 && instances[1].Path == lacksLine(public)
	})
	w.obConfig(ctx, t, 1, public)
	await("no longer named with the line", func(instances []status.Instance) bool { return instances[1].Path == "" })
	// An HSDir that was asked while an upload was on its way is asked again.
	await("nothing but what was published at the HSDirs", func([]status.Instance) bool {
		return !slices.ContainsFunc(d.Snapshot().Services[0].Descriptors, func(d status.Descriptor) bool {
			return slices.ContainsFunc(d.Slots, func(s status.Slot) bool { return s.Holds != "" && s.Holds != status.HoldsPublished })
		})
	})
}

func lacksLine(a descriptor.Address) string { return "its ob_config lacks the line: " + probe.Line(a) }

// obConfig writes the ob_config of an instance, and restarts its tor.
func (w *town) obConfig(ctx context.Context, t *testing.T, n int, addresses ...descriptor.Address) {
	t.Helper()
	var masters []string
	for _, a := range addresses {
		masters = append(masters, a.String())
	}
	if err := w.Instances[n].SetMasters(masters...); err != nil {
		t.Fatal(err)
	}
	if err := w.Instances[n].Restart(ctx); err != nil {
		t.Fatal(err)
	}
}
