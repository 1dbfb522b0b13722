package sim

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

const (
	consensusKey = "dir/status-vote/current/consensus-microdesc"
	noConsensus  = "Could not open cached consensus. Make sure FetchUselessDescriptors is set to 1."

	bootstrapDone    = `NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"`
	bootstrapLoading = `NOTICE BOOTSTRAP PROGRESS=30 TAG=loading_status SUMMARY="Loading networkstatus consensus"`
)

// getInfo answers GETINFO: all values, or what was wrong with the keys.
func (t *Tor) getInfo(keys []string) []byte {
	var b []byte
	var refused []string
	for _, key := range keys {
		value, err := t.info(key)
		switch {
		case err != "":
			return reply1(551, err)
		case value == nil:
			refused = append(refused, fmt.Sprintf("Unrecognized key %q", key))
		case bytes.ContainsAny(value, "\r\n"):
			b = fmt.Appendf(b, "250+%s=\r\n", key)
			b = appendDotted(b, value)
		default:
			b = fmt.Appendf(b, "250-%s=%s\r\n", key, value)
		}
	}
	if refused != nil {
		return replyLines(552, refused)
	}
	return append(b, replyOK...)
}

// info returns the value of a key; nil for a key that is not known.
func (t *Tor) info(key string) (value []byte, err string) {
	c := t.view.consensus
	switch key {
	case "version":
		return []byte(t.cfg.Version), ""
	case consensusKey:
		if c == nil {
			return nil, noConsensus
		}
		return c.Text(), ""
	case "md/all":
		if c == nil {
			return []byte{}, ""
		}
		return c.Microdescs(), ""
	case "status/bootstrap-phase":
		if c == nil {
			return []byte(bootstrapLoading), ""
		}
		return []byte(bootstrapDone), ""
	case "status/circuit-established", "status/enough-dir-info":
		if c == nil {
			return []byte("0"), ""
		}
		return []byte("1"), ""
	}
	if which, found := strings.CutPrefix(key, "consensus/"); found {
		return c.instant(which), ""
	}
	return nil, ""
}

// instant is the value of a "consensus/" key; tor has an empty one for all of
// them before it has a consensus.
func (c *Consensus) instant(which string) []byte {
	if c == nil {
		return []byte{}
	}
	switch which {
	case "valid-after":
		return []byte(c.ValidAfter.Format(time.DateTime))
	case "fresh-until":
		return []byte(c.FreshUntil.Format(time.DateTime))
	case "valid-until":
		return []byte(c.ValidUntil.Format(time.DateTime))
	}
	return nil
}

// appendDotted appends data as the control protocol carries it: lines end
// with CR LF, a dot at the start of a line is doubled, and a line of one dot
// ends it all.
func appendDotted(b, data []byte) []byte {
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		if line = bytes.TrimSuffix(line, []byte("\r")); bytes.HasPrefix(line, []byte(".")) {
			b = append(b, '.')
		}
		b = append(b, line...)
		b = append(b, "\r\n"...)
		data = rest
	}
	return append(b, ".\r\n"...)
}

// undot is the opposite of appendDotted, without the last line. tor leaves a
// CR that no LF follows where it is.
func undot(data []byte) []byte {
	var b []byte
	for len(data) > 0 {
		line, rest, found := bytes.Cut(bytes.TrimPrefix(data, []byte(".")), []byte("\n"))
		if !found {
			return append(b, line...)
		}
		b = append(b, bytes.TrimSuffix(line, []byte("\r"))...)
		b = append(b, '\n')
		data = rest
	}
	return b
}
