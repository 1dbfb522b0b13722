package api

import (
	"encoding/base64"
	"net/http"
	"strconv"

	"onionbalancer/internal/hosting"
)

// How many customers a page has, unless it is said otherwise, and at most.
const (
	pageSize = 100
	maxPage  = 1000
)

// add serves POST /v1/customers.
func (s *server) add(c *call) error {
	if _, err := c.parameters(); err != nil {
		return err
	}
	var name, shard, request string
	if err := c.fields(map[string]*string{"name": &name, "shard": &shard, "request_id": &request}); err != nil {
		return err
	}
	if request != "" {
		if err := c.identify(request); err != nil {
			return err
		}
	}
	d, added, err := s.host.Add(c.r.Context(), name, shard, c.request)
	if err != nil {
		return err
	}
	c.Header().Set("Location", "/v1/customers/"+d.Address.String())
	if added {
		return c.answer(http.StatusCreated, d)
	}
	return c.answer(http.StatusOK, d)
}

// list serves GET /v1/customers.
func (s *server) list(c *call) error {
	values, err := c.parameters("shard", "state", "name", "after", "limit")
	if err != nil {
		return err
	}
	q := Query{Shard: values["shard"], State: hosting.State(values["state"]), Name: values["name"], Limit: pageSize}
	switch q.State {
	case "", hosting.Active, hosting.Suspended, hosting.Removed:
	default:
		return refuse(http.StatusBadRequest, "bad_request", "there is no state %q", q.State)
	}
	if limit, given := values["limit"]; given {
		if q.Limit, err = strconv.Atoi(limit); err != nil || q.Limit < 1 || q.Limit > maxPage {
			return refuse(http.StatusBadRequest, "bad_request", "limit is a number from 1 to %d", maxPage)
		}
	}
	// The cursor looks like nothing that could be made up, so that what it says can change.
	after, err := base64.RawURLEncoding.Strict().DecodeString(values["after"])
	if err != nil {
		return refuse(http.StatusBadRequest, "bad_request", "after is what a page calls \"next\"")
	}
	q.After = string(after)
	page, err := s.host.List(q)
	if err != nil {
		return err
	}
	if page.Customers == nil {
		page.Customers = []hosting.Customer{}
	}
	page.Next = base64.RawURLEncoding.EncodeToString([]byte(page.Next))
	return c.answer(http.StatusOK, page)
}

// customer serves GET /v1/customers/{customer}.
func (s *server) customer(c *call) error {
	if _, err := c.parameters(); err != nil {
		return err
	}
	d, err := s.host.Customer(c.r.PathValue("customer"))
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, d)
}

// change serves what brings a customer into a state.
func (s *server) change(to hosting.State) func(*call) error {
	return func(c *call) error { return s.apply(c, &Change{To: to}, nil) }
}

// move serves POST /v1/customers/{customer}/move.
func (s *server) move(c *call) error {
	var to Change
	return s.apply(c, &to, map[string]*string{"shard": &to.Shard})
}

// apply makes a change of a customer, which the body's fields are a part of.
func (s *server) apply(c *call, change *Change, fields map[string]*string) error {
	if _, err := c.parameters(); err != nil {
		return err
	}
	if err := c.fields(fields); err != nil {
		return err
	}
	if change.To == "" && change.Shard == "" {
		return refuse(http.StatusBadRequest, "bad_request", "\"shard\" is to name the shard to move to")
	}
	change.Request = c.request
	d, err := s.host.Change(c.r.Context(), c.r.PathValue("customer"), *change)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, d)
}

// shardList is the answer to GET /v1/shards.
type shardList struct {
	Shards []hosting.Shard `json:"shards"`
}

func (s *server) shards(c *call) error {
	if _, err := c.parameters(); err != nil {
		return err
	}
	list := s.host.Shards()
	if list == nil {
		list = []hosting.Shard{}
	}
	return c.answer(http.StatusOK, shardList{list})
}

// installed serves POST /v1/shards/{shard}/installed.
func (s *server) installed(c *call) error {
	if _, err := c.parameters(); err != nil {
		return err
	}
	if err := c.fields(nil); err != nil {
		return err
	}
	shard, err := s.host.Installed(c.r.Context(), c.r.PathValue("shard"))
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, shard)
}
