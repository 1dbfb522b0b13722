package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"onionbalancer/internal/hosting"
	"onionbalancer/internal/socket"
)

// Limits of what a daemon says, in bytes.
const (
	maxAnswer = 16 << 20 // 16 MiB
	maxEvent  = 64 << 10 // 64 KiB
)

// ErrNone says that the daemon that answers does not know of customers.
var ErrNone = errors.New("the balancer that runs knows nothing of customers: it is of another version than this program; restart it")

// Client asks the daemon whose socket is at the path that it is. An *Error is the
// daemon's, any other error says why there is no answer.
type Client string

// Add is Host.Add.
func (c Client) Add(ctx context.Context, name, shard, request string) (d Detail, added bool, err error) {
	fields := make(map[string]string)
	for field, value := range map[string]string{"name": name, "shard": shard, "request_id": request} {
		if value != "" {
			fields[field] = value
		}
	}
	status, err := c.ask(ctx, http.MethodPost, "/v1/customers", "", fields, &d)
	return d, status == http.StatusCreated, err
}

// Change is Host.Change.
func (c Client) Change(ctx context.Context, customer string, change Change) (d Detail, err error) {
	method, path, fields := http.MethodPost, customerPath(customer), map[string]string(nil)
	switch change.To {
	case hosting.Active:
		path += "/resume"
	case hosting.Suspended:
		path += "/suspend"
	case hosting.Removed:
		method = http.MethodDelete
	default:
		path, fields = path+"/move", map[string]string{"shard": change.Shard}
	}
	_, err = c.ask(ctx, method, path, change.Request, fields, &d)
	return d, err
}

// Customer is Host.Customer.
func (c Client) Customer(ctx context.Context, customer string) (d Detail, err error) {
	_, err = c.ask(ctx, http.MethodGet, customerPath(customer), "", nil, &d)
	return d, err
}

func customerPath(customer string) string { return "/v1/customers/" + url.PathEscape(customer) }

// List is Host.List.
func (c Client) List(ctx context.Context, q Query) (p Page, err error) {
	values := make(url.Values)
	for name, value := range map[string]string{"shard": q.Shard, "state": string(q.State), "name": q.Name, "after": q.After} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if q.Limit != 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	_, err = c.ask(ctx, http.MethodGet, "/v1/customers?"+values.Encode(), "", nil, &p)
	return p, err
}

// All lists what q says, page by page, and ends with the first error.
func (c Client) All(ctx context.Context, q Query) iter.Seq2[hosting.Customer, error] {
	q.Limit = maxPage
	return func(yield func(hosting.Customer, error) bool) {
		for {
			page, err := c.List(ctx, q)
			if err != nil {
				yield(hosting.Customer{}, err)
				return
			}
			for _, customer := range page.Customers {
				if !yield(customer, nil) {
					return
				}
			}
			if q.After = page.Next; q.After == "" {
				return
			}
		}
	}
}

// Shards is Host.Shards.
func (c Client) Shards(ctx context.Context) ([]hosting.Shard, error) {
	var list shardList
	_, err := c.ask(ctx, http.MethodGet, "/v1/shards", "", nil, &list)
	return list.Shards, err
}

// Installed is Host.Installed.
func (c Client) Installed(ctx context.Context, shard string) (s hosting.Shard, err error) {
	_, err = c.ask(ctx, http.MethodPost, "/v1/shards/"+url.PathEscape(shard)+"/installed", "", nil, &s)
	return s, err
}

// Events calls take with the events after the one with the given id: with those that are
// there, or if it follows them, until ctx or the daemon ends, or take returns an error.
// Where events are missing, one of the kind Lost comes first.
func (c Client) Events(ctx context.Context, after uint64, follow bool, take func(Event) error) error {
	values := url.Values{"follow": {strconv.FormatBool(follow)}}
	if after != 0 {
		values.Set("after", strconv.FormatUint(after, 10))
	}
	timeout := socket.Patience
	if follow {
		timeout = 0
	}
	response, err := c.do(ctx, http.MethodGet, "/v1/events?"+values.Encode(), "", nil, timeout)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		data, found := strings.CutPrefix(lines.Text(), "data: ")
		if !found {
			continue // what else an event has is in its data as well
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("reading the daemon's events: %w", err)
		}
		if err := take(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) || err != nil && !follow {
		return fmt.Errorf("reading the daemon's events: %w", err)
	}
	return nil
}

// ask sends a request, with an id unless it is empty and a body unless fields are nil, and
// decodes the answer.
func (c Client) ask(ctx context.Context, method, page, id string, fields map[string]string, answer any) (status int, err error) {
	response, err := c.do(ctx, method, page, id, fields, socket.Patience)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(answer); err != nil {
		return 0, fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return response.StatusCode, nil
}

// do sends a request and returns an answer that is no error.
func (c Client) do(ctx context.Context, method, page, id string, fields map[string]string, timeout time.Duration) (*http.Response, error) {
	var body io.Reader
	if fields != nil {
		text, err := json.Marshal(fields)
		if err != nil {
			return nil, fmt.Errorf("asking the daemon: %w", err)
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, socket.Host+page, body)
	if err != nil {
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	if id != "" {
		request.Header.Set(requestHeader, id)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := socket.Do(string(c), request, timeout)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < http.StatusMultipleChoices {
		return response, nil
	}
	defer response.Body.Close()
	refused := &Error{Status: response.StatusCode}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxEvent)).Decode(refused); err != nil || refused.Code == "" {
		return nil, ErrNone
	}
	return nil, refused
}
