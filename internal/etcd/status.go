package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// Status is what one etcd says of itself.
type Status struct {
	Version        string
	Cluster        uint64 // the same at all endpoints of a Client
	Member, Leader uint64 // Leader is 0 while there is none
	Term           uint64 // counts the elections of leaders
	Revision       int64  // the latest that it knows
	Size, InUse    int64  // bytes of its file, and of what is in it; it shrinks only when defragmented
	Errors         []string
}

const statusPath = "maintenance/status"

type statusAnswer struct {
	plain
	Version string   `json:"version"`
	Size    int64    `json:"dbSize,string"`
	InUse   int64    `json:"dbSizeInUse,string"`
	Leader  uint64   `json:"leader,string"`
	Term    uint64   `json:"raftTerm,string"`
	Errors  []string `json:"errors"`
}

// Endpoints returns the endpoints as configured.
func (c *Client) Endpoints() []string {
	var texts []string
	for _, e := range c.endpoints {
		texts = append(texts, e.text)
	}
	return texts
}

// endpoint finds one of Endpoints.
func (c *Client) endpoint(text string) (*endpoint, error) {
	i := slices.IndexFunc(c.endpoints, func(e *endpoint) bool { return e.text == text })
	if i < 0 {
		return nil, errors.New("asking etcd: no such endpoint")
	}
	return c.endpoints[i], nil
}

// Status asks one of Endpoints what it is, whatever its version and its cluster.
func (c *Client) Status(ctx context.Context, endpoint string) (Status, error) {
	e, err := c.endpoint(endpoint)
	if err != nil {
		return Status{}, err
	}
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	a, f := askWithToken[statusAnswer](within, c, e, statusPath, []byte("{}"))
	if f != nil {
		return Status{}, f.error(ctx, statusPath, nil)
	}
	s := Status{legible(a.Version), a.Header.Cluster, a.Header.Member, a.Leader, a.Term, a.Header.Revision, a.Size, a.InUse, nil}
	for _, text := range a.Errors {
		s.Errors = append(s.Errors, legible(text))
	}
	return s, nil
}

// Alarm is raised by a member until the operator disarms it.
type Alarm struct {
	Member uint64
	Kind   string // NOSPACE, CORRUPT
}

type alarmAnswer struct {
	plain
	Alarms []struct {
		Member uint64 `json:"memberID,string"`
		Kind   string `json:"alarm"`
	} `json:"alarms"`
}

// Alarms returns all members' alarms.
func (c *Client) Alarms(ctx context.Context) ([]Alarm, error) {
	a, err := call[alarmAnswer](ctx, c, "maintenance/alarm", struct {
		Action string `json:"action"`
	}{"GET"}, again, nil)
	if err != nil {
		return nil, err
	}
	var alarms []Alarm
	for _, alarm := range a.Alarms {
		alarms = append(alarms, Alarm{alarm.Member, legible(alarm.Kind)})
	}
	return alarms, nil
}

// Openness is what an endpoint lets anybody do who reaches it.
type Openness struct {
	Plain         bool // it does not speak TLS
	NoCertificate bool // it answers to who has no certificate
	NoUser        bool // it tells keys to who has no token
}

// Openness tries what an endpoint, one of Endpoints, allows without a certificate, and to
// read under prefix without a token.
func (c *Client) Openness(ctx context.Context, endpoint, prefix string) (Openness, error) {
	e, err := c.endpoint(endpoint)
	if err != nil {
		return Openness{}, err
	}
	const path = "kv/range"
	body, err := json.Marshal(rangeRequest{Key: start(prefix), End: end(prefix), Limit: 1, KeysOnly: true})
	if err != nil {
		return Openness{}, err
	}
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	_, f := post[rangeAnswer](within, e, path, "", body)
	if f != nil && !f.answered {
		return Openness{}, f.error(ctx, path, nil)
	}
	o := Openness{Plain: !strings.HasPrefix(e.base, "https:"), NoUser: f == nil}
	o.NoCertificate = o.Plain
	if !o.Plain {
		bare := *e
		transport := e.http.Transport.(*http.Transport).Clone()
		defer transport.CloseIdleConnections()
		tls := transport.TLSClientConfig
		tls.Certificates, tls.GetClientCertificate, tls.ClientSessionCache = nil, nil, nil
		bare.http = &http.Client{Transport: transport, CheckRedirect: e.http.CheckRedirect}
		_, f = post[rangeAnswer](within, &bare, path, "", body)
		o.NoCertificate = f == nil || f.answered
	}
	return o, nil
}
