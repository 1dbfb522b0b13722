package sim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

// stall is when tor gives up on a directory that does not answer. It says
// nothing when it does.
const stall = 2 * time.Minute

// hsFetch acts on HSFETCH: one fetch from each HSDir named, or from one that
// tor chooses.
func (t *Tor) hsFetch(args string) (reply []byte, after func()) {
	fields := strings.Fields(args)
	if len(fields) == 0 {
		return reply1(512, "Bad arguments to HSFETCH: Need at least 1 argument(s)"), nil
	}
	address, ok := t.net.keyring.parse(fields[0])
	if !ok {
		return reply1(513, fmt.Sprintf("Invalid argument %q", fields[0])), nil
	}
	servers, _, refusal := t.keywords("HSFETCH", fields[1:], "SERVER")
	if refusal != nil {
		return refusal, nil
	}
	return replyOK, func() {
		now := time.Now()
		if len(servers) == 0 {
			t.fetchAnywhere(address, now)
		}
		for _, r := range servers {
			t.fetch(address, r, now)
		}
	}
}

// keywords reads SERVER and HSADDRESS arguments.
func (t *Tor) keywords(command string, fields []string, allowed ...string) (servers []*Relay, address string, refusal []byte) {
	for _, field := range fields {
		key, value, found := strings.Cut(field, "=")
		if !found {
			return nil, "", reply1(512, "Bad arguments to "+command+": Cannot parse keyword argument(s)")
		}
		switch key = strings.ToUpper(key); {
		case !contains(allowed, key):
			return nil, "", reply1(512, fmt.Sprintf("Bad arguments to %s: Unrecognized keyword argument %q", command, key))
		case key == "HSADDRESS":
			address = value
		default:
			r := t.server(value)
			if r == nil {
				return nil, "", reply1(552, fmt.Sprintf("Server %q not found", value))
			}
			servers = append(servers, r)
		}
	}
	return servers, address, nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// server finds a relay of tor's consensus by how controllers name one:
// fingerprint, with or without "$" before and "~nickname" after it.
func (t *Tor) server(name string) *Relay {
	id, _, _ := strings.Cut(strings.TrimPrefix(name, "$"), "~")
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != 20 || t.view.consensus == nil {
		return nil
	}
	return t.view.consensus.relay([20]byte(raw))
}

// fetchAnywhere fetches from a responsible HSDir that tor has not asked for
// a while. When there is none it does nothing, and says nothing.
func (t *Tor) fetchAnywhere(address descriptor.Address, now time.Time) {
	c := t.view.live(now)
	if c == nil {
		return
	}
	ring := c.current()
	keys, err := t.net.keyring.of(address, ring.key.period)
	if err != nil {
		return
	}
	blinded := keys.Blinded
	var free []*Relay
	for _, r := range ring.fetch(&t.net.cfg, blinded) {
		if at, before := t.asked[question{r, blinded}]; !before || now.Sub(at) > t.net.cfg.Requery {
			free = append(free, r)
		}
	}
	if len(free) == 0 {
		return
	}
	draw := t.net.cfg.derive("choice of an HSDir", blinded[:], timeBytes(now))
	r := free[int(binary.BigEndian.Uint32(draw[:]))%len(free)]
	t.asked[question{r, blinded}] = now
	t.fetch(address, r, now)
}

// fetch asks one HSDir for the descriptor of tor's current period.
func (t *Tor) fetch(address descriptor.Address, r *Relay, now time.Time) {
	c := t.view.live(now)
	if c == nil {
		return
	}
	ring := c.current()
	keys, err := t.net.keyring.of(address, ring.key.period)
	if err != nil {
		return
	}
	t.counts.Fetches++
	t.pending[address]++
	t.event("HS_DESC", fmt.Sprintf("650 HS_DESC REQUESTED %s NO_AUTH %s %s HSDIR_INDEX=%X\r\n",
		address.Label(), r.longName(), unpadded.EncodeToString(keys.Blinded[:]), *r.index(ring.key)))
	at, answered := now.Add(stall), !t.offline && r.answers() && r.circuit("fetch", now) == arrives
	if answered {
		at = r.answerTime(now)
	}
	life := t.life
	t.net.agenda.plan(at, func(now time.Time) {
		if life != t.life {
			return
		}
		t.pending[address]--
		if answered = answered && r.answers() && !t.offline; !answered || !t.fetched(keys, r, now) {
			t.refetch(address, now)
		}
	})
}

// refetch is what tor does after a fetch that failed, no matter who wanted it: it
// tries another HSDir of its own choice, unless a fetch is still under way or
// a descriptor of this period is in its cache.
func (t *Tor) refetch(address descriptor.Address, now time.Time) {
	if c := t.view.live(now); c != nil && t.pending[address] == 0 && t.cached[address] != c.Period() {
		t.fetchAnywhere(address, now)
	}
}

// failed is the event of a fetch or an upload that failed.
func (t *Tor) failed(address descriptor.Address, blinded descriptor.BlindedPublicKey, r *Relay, reason string) {
	t.event("HS_DESC", fmt.Sprintf("650 HS_DESC FAILED %s NO_AUTH %s %s REASON=%s\r\n",
		address.Label(), r.longName(), unpadded.EncodeToString(blinded[:]), reason))
}

// fetched says what came of a fetch, on the control port; it returns whether
// tor is content.
func (t *Tor) fetched(keys descriptor.PeriodKeys, r *Relay, now time.Time) bool {
	body, status := r.serve(keys.Blinded, now)
	reason := ""
	switch status {
	case statusOK:
		if !t.faults.Trusting && !r.madeHere(keys.Blinded, body, now) {
			_, err := t.net.decoder.Decode(body, keys, nil, now)
			if err != nil && !errors.Is(err, descriptor.ErrClientKey) {
				reason = "BAD_DESC"
			}
		}
	case statusMissing:
		reason = "NOT_FOUND"
	case statusBad:
		reason = "QUERY_REJECTED"
	default:
		reason = "UNEXPECTED"
	}
	address, id := keys.Address.Label(), unpadded.EncodeToString(keys.Blinded[:])
	if reason == "" {
		t.cached[keys.Address] = keys.Period
		t.net.dialer.hear(keys, body)
	}
	if reason != "" {
		body = nil
		t.failed(keys.Address, keys.Blinded, r, reason)
	} else {
		t.event("HS_DESC", fmt.Sprintf("650 HS_DESC RECEIVED %s NO_AUTH %s %s\r\n", address, r.longName(), id))
	}
	content := fmt.Appendf(nil, "650+HS_DESC_CONTENT %s %s %s\r\n", address, id, r.longName())
	if len(body) == 0 {
		content = append(content, "\r\n"...) // an empty body is an empty line, in tor
	}
	t.event("HS_DESC_CONTENT", string(append(appendDotted(content, body), "650 OK\r\n"...)))
	return reason == ""
}

// hsPost acts on +HSPOST: one upload to each HSDir named, or to those that are
// responsible for the first descriptor if none is. Without HSADDRESS tor
// replies nothing at all.
func (t *Tor) hsPost(args string, body []byte) (reply []byte, after func()) {
	if len(body) == 0 {
		return reply1(512, "Bad arguments to +HSPOST: Empty body"), nil
	}
	servers, label, refusal := t.keywords("+HSPOST", strings.Fields(args), "SERVER", "HSADDRESS")
	if refusal != nil {
		return refusal, nil
	}
	if label == "" {
		return nil, nil
	}
	address, ok := t.net.keyring.parse(label)
	if !ok {
		return reply1(512, "Malformed onion address"), nil
	}
	now := time.Now()
	body = undot(body)
	w, err := readWrapper(body, now, int(t.net.cfg.param("HSV3MaxDescriptorSize", defaultMaxSize)))
	if err != nil {
		return reply1(554, "Invalid descriptor"), nil
	}
	if c := t.view.live(now); len(servers) == 0 && c != nil {
		servers = c.first().store(&t.net.cfg, w.blinded)
	}
	return replyOK, func() {
		for _, r := range servers {
			t.post(address, r, body, w, now)
		}
	}
}

// post sends a descriptor to one HSDir. tor says UPLOADED or FAILED when the
// HSDir answers, and nothing if it never does.
func (t *Tor) post(address descriptor.Address, r *Relay, body []byte, w wrapper, now time.Time) {
	t.counts.Posts++
	fate := r.circuit("post", now)
	if t.offline || !r.answers() || fate == unheard {
		return
	}
	life := t.life
	t.net.agenda.plan(r.answerTime(now), func(now time.Time) {
		if !r.answers() {
			return
		}
		// The HSDir has it even if the tor that sent it has died since.
		status := r.take(body, w, now)
		if t.net.posted != nil {
			t.net.posted(Posted{now, t, r, address, w.blinded, w.revision, status == statusOK})
		}
		if life != t.life || t.offline || fate == unspoken {
			return
		}
		reason := "UNEXPECTED"
		switch status {
		case statusOK:
			t.counts.Stored++
			t.event("HS_DESC", fmt.Sprintf("650 HS_DESC UPLOADED %s UNKNOWN %s\r\n", address.Label(), r.longName()))
			return
		case statusBad:
			t.counts.Rejected++
			reason = "UPLOAD_REJECTED"
		}
		// tor words a failed upload as it does a failed fetch.
		t.failed(address, w.blinded, r, reason)
	})
}

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
