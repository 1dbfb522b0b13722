package sim

import (
	"fmt"
	"strings"
	"time"

	"onionbalancer/descriptor"
)

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
	if !r.answers() || fate == unheard {
		return
	}
	life := t.life
	t.net.agenda.plan(r.answerTime(now), func(now time.Time) {
		if !r.answers() {
			return
		}
		// The HSDir has it even if the tor that sent it has died since.
		status := r.receive(body, now)
		if life != t.life || fate == unspoken {
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
