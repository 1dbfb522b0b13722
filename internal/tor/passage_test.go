package tor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
	"onionbalancer/internal/tor/control"
)

// relay is the fingerprint of the nth relay.
func relay(n int) string { return fmt.Sprintf("%040X", n) }

// The events of circuits, as tor 0.4.9.11 sends them.
func introBuilt(circuit string, at int) control.Traffic {
	return control.Traffic{Circuit: circuit, Status: "BUILT", Last: relay(at), Purpose: "HS_CLIENT_INTRO", State: "HSCI_CONNECTING"}
}

func intro(circuit string, at int, old, state string) control.Traffic {
	return control.Traffic{Circuit: circuit, Status: "PURPOSE_CHANGED", Last: relay(at), Purpose: "HS_CLIENT_INTRO", State: "HSCI_" + state, OldState: "HSCI_" + old}
}

func introClosed(circuit, reason string) control.Traffic {
	return control.Traffic{Circuit: circuit, Status: "CLOSED", Purpose: "HS_CLIENT_INTRO", State: "HSCI_CONNECTING", Reason: reason}
}

func rend(circuit, old, state string) control.Traffic {
	return control.Traffic{Circuit: circuit, Status: "PURPOSE_CHANGED", Purpose: "HS_CLIENT_REND", State: "HSCR_" + state, OldState: "HSCR_" + old}
}

func stream(status, reason, remote string) control.Traffic {
	return control.Traffic{Stream: "1", Status: status, Circuit: "9", Reason: reason, Remote: remote}
}

var (
	ready   = rend("9", "CONNECTING", "ESTABLISHED_IDLE")
	waiting = rend("9", "ESTABLISHED_IDLE", "ESTABLISHED_WAITING")
	sent    = intro("5", 1, "CONNECTING", "INTRO_SENT")
	ack     = intro("5", 1, "INTRO_SENT", "DONE")
	nack    = intro("5", 1, "INTRO_SENT", "CONNECTING")
)

// TestPassage: what transcripts of real visits mean.
func TestPassage(t *testing.T) {
	point := func(n int, acknowledged, answered bool) health.PointResult {
		r, _ := descriptor.ParseFingerprint(relay(n))
		return health.PointResult{Relay: r, Acknowledged: acknowledged, Answered: answered}
	}
	for name, test := range map[string]struct {
		events []control.Traffic
		code   socksCode
		stage  health.Stage
		err    error // that it wraps, if not nil
		points []health.PointResult
	}{
		"nothing":                                   {nil, noCode, health.NoTor, nil, nil},
		"only a descriptor":                         {[]control.Traffic{{Fetch: "REQUESTED"}, {Fetch: "RECEIVED"}}, noCode, health.NoTor, nil, nil},
		"no descriptor so far":                      {[]control.Traffic{{Fetch: "FAILED", Reason: "NOT_FOUND"}}, noCode, health.NoPoint, nil, nil},
		"no descriptor, said by SOCKS":              {nil, socksUnreachable, health.NoPoint, nil, nil},
		"no client key, without ExtendedErrors":     {[]control.Traffic{{Fetch: "RECEIVED"}, stream("FAILED", "MISC", "")}, socksGeneral, health.NoPoint, nil, nil},
		"no client key, told before the descriptor": {[]control.Traffic{stream("FAILED", "MISC", ""), {Fetch: "RECEIVED"}}, socksGeneral, health.NoPoint, nil, nil},
		"tor cannot attach":                         {[]control.Traffic{stream("FAILED", "CANT_ATTACH", "")}, socksGeneral, health.NoTor, nil, nil},
		"no answer from the relay yet":              {[]control.Traffic{introBuilt("5", 1), ready, sent}, noCode, health.NoPoint, nil, nil},
		"frozen": {[]control.Traffic{ready, introBuilt("5", 1), sent, waiting, ack}, noCode, health.Introduced, nil,
			[]health.PointResult{point(1, true, false)}},
		"frozen, second try": {[]control.Traffic{ready, sent, waiting, ack, rend("10", "CONNECTING", "ESTABLISHED_IDLE"),
			intro("6", 2, "CONNECTING", "INTRO_SENT"), rend("10", "ESTABLISHED_IDLE", "ESTABLISHED_WAITING"), intro("6", 2, "INTRO_SENT", "DONE")},
			noCode, health.Introduced, nil, []health.PointResult{point(1, true, false), point(2, true, false)}},
		"late answer to the first try": {[]control.Traffic{ready, sent, waiting, ack, rend("10", "CONNECTING", "ESTABLISHED_IDLE"),
			intro("6", 2, "CONNECTING", "INTRO_SENT"), rend("9", "ESTABLISHED_WAITING", "JOINED")},
			noCode, health.Answered, health.ErrSilent, []health.PointResult{point(1, true, true)}},
		"frozen on a kept circuit": {[]control.Traffic{stream("SENTCONNECT", "", "")}, noCode, health.Introduced, nil, nil},
		"killed": {[]control.Traffic{ready, sent, nack,
			intro("5", 2, "CONNECTING", "INTRO_SENT"), intro("5", 2, "INTRO_SENT", "CONNECTING"), introClosed("5", "FINISHED"),
			intro("6", 2, "CONNECTING", "INTRO_SENT"), intro("6", 2, "INTRO_SENT", "CONNECTING"), intro("6", 2, "CONNECTING", "DONE"), introClosed("6", "FINISHED"),
			stream("FAILED", "RESOLVEFAILED", "")},
			socksIntroFailed, health.NoPoint, nil, []health.PointResult{point(1, false, false), point(2, false, false)}},
		"the relay of the point dies": {[]control.Traffic{ready, sent, introClosed("5", "DESTROYED")}, noCode, health.NoPoint, nil,
			[]health.PointResult{point(1, false, false)}},
		"one dead point, then it works": {[]control.Traffic{ready, sent, nack, intro("5", 2, "CONNECTING", "INTRO_SENT"), intro("5", 2, "INTRO_SENT", "CONNECTING"),
			introClosed("5", "FINISHED"), intro("6", 2, "CONNECTING", "INTRO_SENT"), rend("9", "ESTABLISHED_IDLE", "JOINED"), stream("SENTCONNECT", "", ""),
			intro("6", 2, "INTRO_SENT", "DONE"), stream("FAILED", "END", "CONNECTREFUSED")},
			socksRefused, health.Answered, health.ErrRefused, []health.PointResult{point(1, false, false), point(2, true, true)}},
		"refused": {[]control.Traffic{ready, sent, waiting, ack, rend("9", "ESTABLISHED_WAITING", "JOINED"), stream("SENTCONNECT", "", ""), stream("FAILED", "END", "MISC")},
			socksGeneral, health.Answered, health.ErrRefused, []health.PointResult{point(1, true, true)}},
		"no such port, circuit kept": {[]control.Traffic{stream("SENTCONNECT", "", ""), stream("FAILED", "END", "DONE")},
			socksRefused, health.Answered, health.ErrNoPort, nil},
		"not clear who answered": {[]control.Traffic{ready, sent, intro("6", 2, "CONNECTING", "INTRO_SENT"), rend("9", "ESTABLISHED_IDLE", "JOINED")},
			noCode, health.Answered, health.ErrSilent, nil},
		"a strange relay": {[]control.Traffic{{Circuit: "5", Status: "PURPOSE_CHANGED", Last: "x", Purpose: "HS_CLIENT_INTRO", State: "HSCI_INTRO_SENT"}, nack},
			noCode, health.NoPoint, nil, nil},
	} {
		p, refused := newPassage(), false
		p.refused = func() { refused = true }
		for _, e := range test.events {
			p.note(e)
		}
		stage, err := p.outcome(test.code)
		if stage != test.stage || err == nil || test.err != nil && !errors.Is(err, test.err) {
			t.Errorf("%s: stage %d, %v; want %d, %v", name, stage, err, test.stage, test.err)
		}
		if strings.Contains(name, "client key") && !p.completed {
			t.Errorf("%s: more is waited for", name)
		}
		if wants := strings.Contains(name, "killed") || strings.Contains(name, "dead point"); refused != wants {
			t.Errorf("%s: ends at a refusal: %v, want %v", name, refused, wants)
		}
		if got := p.points(); !slices.Equal(got, test.points) {
			t.Errorf("%s: points %+v, want %+v", name, got, test.points)
		}
	}
}

// TestPassageWaitsForDescriptor: a stream that failed for tor's own reasons may be of a
// descriptor that tor cannot read, and says so only a moment later.
func TestPassageWaitsForDescriptor(t *testing.T) {
	p := newPassage()
	if p.note(stream("FAILED", "MISC", "")); p.completed {
		t.Error("nothing more is waited for")
	}
	if p.note(control.Traffic{Fetch: "RECEIVED"}); !p.completed {
		t.Error("more is waited for")
	}
}
