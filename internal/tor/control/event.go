package control

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// event is one of tor's asynchronous events (control-spec, section 4.1), of
// which at most one field is set: none for events that we have no use for.
type event struct {
	hsDesc   *hsDescEvent
	progress *Progress
	skew     time.Duration // how far tor finds the clock ahead, if it does
	// refresh: what the directory documents say may have changed.
	refresh bool
}

// hsDescEvent is HS_DESC or, with Action "CONTENT", HS_DESC_CONTENT.
type hsDescEvent struct {
	action  string // UPLOADED, FAILED, CONTENT and others
	pair    pair
	reason  string
	content []byte // whole lines; nil when the fetch brought nothing
}

// parseEvent reads an event as bine hands it over: data holds the lines before
// the last, which is reply.
func parseEvent(data []string, reply string) (event, error) {
	text := reply
	if len(data) > 0 {
		text = data[0]
	}
	keyword, rest, _ := strings.Cut(text, " ")
	switch keyword {
	case "HS_DESC":
		e, err := parseHSDesc(rest)
		if err != nil {
			return event{}, fmt.Errorf("reading HS_DESC: %w", err)
		}
		return event{hsDesc: e}, nil
	case "HS_DESC_CONTENT":
		e, err := parseHSDescContent(rest)
		if err != nil {
			return event{}, fmt.Errorf("reading HS_DESC_CONTENT: %w", err)
		}
		return event{hsDesc: e}, nil
	case "STATUS_CLIENT":
		e, err := parseStatusClient(rest)
		if err != nil {
			return event{}, fmt.Errorf("reading STATUS_CLIENT: %w", err)
		}
		return e, nil
	case "STATUS_GENERAL":
		return event{skew: parseClockSkew(rest)}, nil
	}
	return event{}, nil
}

// parseClockSkew reads: severity, "CLOCK_SKEW", SKEW=SECONDS and others
// (control-spec, section 4.1.10). All else gives 0.
func parseClockSkew(text string) time.Duration {
	words := strings.Fields(text)
	if len(words) < 3 || words[1] != "CLOCK_SKEW" {
		return 0
	}
	seconds, _ := strings.CutPrefix(words[2], "SKEW=")
	return parseSkew(seconds)
}

// parseHSDesc reads: action, address, authorization, HSDir, and then perhaps
// the descriptor's blinded key and KEY=VALUE pairs (control-spec, section
// 4.1.25). Uploads come without the blinded key.
func parseHSDesc(text string) (*hsDescEvent, error) {
	words := strings.Fields(text)
	if len(words) < 4 {
		return nil, fmt.Errorf("%d words, want at least 4", len(words))
	}
	e := &hsDescEvent{action: words[0]}
	e.pair = pair{address: strings.ToLower(words[1]), hsdir: fingerprint(words[3])}
	for _, word := range words[4:] {
		if reason, ok := strings.CutPrefix(word, "REASON="); ok {
			e.reason = reason
		}
	}
	return e, nil
}

// parseHSDescContent reads: address, blinded key, HSDir, and from the next
// line on the descriptor (control-spec, section 4.1.26). For a failed fetch
// tor sends an empty line in its place. bine trimmed the newline at the end.
func parseHSDescContent(text string) (*hsDescEvent, error) {
	head, body, found := strings.Cut(text, "\n")
	words := strings.Fields(head)
	if len(words) < 3 || !found {
		return nil, errors.New("want three words and a document")
	}
	e := &hsDescEvent{action: "CONTENT"}
	e.pair = pair{address: strings.ToLower(words[0]), hsdir: fingerprint(words[2])}
	if strings.TrimSpace(body) != "" {
		e.content = []byte(body + "\n")
	}
	return e, nil
}

// fingerprint takes the 40 hex digits out of $FINGERPRINT~nickname, or gives
// "" for UNKNOWN and whatever else there is.
func fingerprint(longName string) string {
	name := strings.TrimPrefix(longName, "$")
	if i := strings.IndexAny(name, "~="); i >= 0 {
		name = name[:i]
	}
	if !isHex(name) {
		return ""
	}
	return strings.ToUpper(name)
}

// isHex tells whether s is a relay's fingerprint: 40 hex digits.
func isHex(s string) bool {
	if len(s) != 40 {
		return false
	}
	for _, b := range []byte(s) {
		if !(b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F') {
			return false
		}
	}
	return true
}

// parseStatusClient reads: severity, action, arguments (control-spec, section
// 4.1.10).
func parseStatusClient(text string) (event, error) {
	_, rest, found := strings.Cut(text, " ")
	if !found {
		return event{}, errors.New("no action")
	}
	action, args, _ := strings.Cut(rest, " ")
	switch action {
	case "CONSENSUS_ARRIVED", "ENOUGH_DIR_INFO":
		return event{refresh: true}, nil
	case "BOOTSTRAP":
		p, err := parseBootstrap(args)
		if err != nil {
			return event{}, err
		}
		return event{progress: &p}, nil
	}
	return event{}, nil
}
