package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// electionPause is how long a call waits before it asks all endpoints once more.
const electionPause = 100 * time.Millisecond

// answer is what every answer can tell, T or a pointer to it.
type answer[T any] interface {
	*T
	cluster() uint64
	failed() *serverSaid
}

// repeat says whether a request may be made twice.
type repeat bool

const (
	again repeat = true
	once  repeat = false
)

// call makes a request at the endpoints in turn, until one answers. What valid finds wrong
// with an answer counts as none.
func call[T any, A answer[T]](ctx context.Context, c *Client, path string, request any, r repeat, valid func(*T) error) (*T, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("asking etcd for %s: %w", path, err)
	}
	began := time.Now()
	for {
		var faults []*fault
		for _, e := range c.inTurn() {
			result, f := ask[T, A](ctx, c, e, path, body, valid)
			if f == nil {
				return result, nil
			}
			// A caller in a hurry finds another endpoint the next time.
			if !f.answered && !errors.Is(ctx.Err(), context.Canceled) {
				c.fails(e)
			}
			switch {
			case r == once && f.sent:
				return nil, f.error(ctx, path, ErrUnknown)
			case f.answered:
				return nil, f.error(ctx, path, nil)
			case ctx.Err() != nil:
				return nil, f.error(ctx, path, ErrUnavailable)
			}
			faults = append(faults, f)
		}
		// What etcd refuses now it refuses then; but it may find a leader.
		stays := !slices.ContainsFunc(faults, func(f *fault) bool { return f.kind == ErrUnavailable })
		if stays || time.Since(began) >= c.timeout {
			return nil, all(ctx, path, faults)
		}
		select {
		case <-ctx.Done():
			return nil, all(ctx, path, faults)
		case <-time.After(electionPause):
		}
	}
}

// ask makes a request at one endpoint. If etcd asks for a token, or for another one, it gets
// one.
func ask[T any, A answer[T]](ctx context.Context, c *Client, e *endpoint, path string, body []byte, valid func(*T) error) (*T, *fault) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if f := c.meet(ctx, e); f != nil {
		return nil, f
	}
	result, f := askWithToken[T, A](ctx, c, e, path, body)
	if f != nil {
		return nil, f
	}
	if id := A(result).cluster(); id != 0 && !c.is(id) {
		return nil, &fault{at: e, kind: ErrOtherCluster, sent: true}
	}
	if valid != nil {
		if err := valid(result); err != nil {
			return nil, &fault{at: e, kind: ErrUnavailable, sent: true, why: err}
		}
	}
	return result, nil
}

func askWithToken[T any, A answer[T]](ctx context.Context, c *Client, e *endpoint, path string, body []byte) (*T, *fault) {
	token := c.present()
	for try := 0; ; try++ {
		result, f := post[T, A](ctx, e, path, token, body)
		if f == nil || !f.token || c.user == "" || try > 0 {
			c.doubt(token, f)
			return result, f
		}
		if token, f = c.authenticate(ctx, e, token); f != nil {
			return nil, f
		}
	}
}

// post makes a request at one endpoint, once.
func post[T any, A answer[T]](ctx context.Context, e *endpoint, path, token string, body []byte) (*T, *fault) {
	text, f := e.post(ctx, path, token, body)
	if f != nil {
		return nil, f
	}
	result := new(T)
	if err := json.Unmarshal(text, result); err != nil {
		return nil, &fault{at: e, kind: ErrUnavailable, sent: true, why: errors.New("it does not answer in etcd's words")}
	}
	if said := A(result).failed(); said != nil {
		return nil, said.fault(e, token)
	}
	return result, nil
}

// inTurn returns the endpoints in the order in which to ask them.
func (c *Client) inTurn() []*endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.order)
}

// fails puts an endpoint at the end of the order. Before it is asked again, what it is has to
// be seen again.
func (c *Client) fails(e *endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.met = false
	i := slices.Index(c.order, e)
	c.order = append(slices.Delete(c.order, i, i+1), e)
}

// is says whether id is that of the Client's cluster.
func (c *Client) is(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cluster == id
}

// meet looks at what an endpoint is before it is asked for anything else: a transaction must
// not be made in another cluster, and versions below 3.4 have no such gateway.
func (c *Client) meet(ctx context.Context, e *endpoint) *fault {
	c.mu.Lock()
	met := e.met
	c.mu.Unlock()
	if met {
		return nil
	}
	status, f := askWithToken[statusAnswer](ctx, c, e, statusPath, []byte("{}"))
	if f != nil {
		f.sent = false // what is to be asked was not
		return f
	}
	if old(status.Version) || status.Header.Cluster == 0 {
		return &fault{at: e, kind: ErrUnavailable, why: fmt.Errorf("version %.20q: etcd 3.4 or newer is needed", status.Version)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cluster == 0 {
		c.cluster = status.Header.Cluster
	}
	if c.cluster != status.Header.Cluster {
		return &fault{at: e, kind: ErrOtherCluster}
	}
	e.met = true
	return nil
}

// old says whether a version is below 3.4, or is none.
func old(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 3 {
		return true
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 != nil || err2 != nil || major < 3 || major == 3 && minor < 4
}

func (c *Client) present() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// doubt gives up a token with which a request was not answered. An etcd does not refuse a token
// of a later revision than its own, as after it lost its data: it waits until it has that
// revision, for longer than any request.
func (c *Client) doubt(token string, f *fault) {
	if f == nil || f.answered || !f.sent {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == token {
		c.token = ""
	}
}

// authenticate returns another token than the one that etcd refuses.
func (c *Client) authenticate(ctx context.Context, e *endpoint, refused string) (string, *fault) {
	select {
	case c.login <- struct{}{}:
		defer func() { <-c.login }()
	case <-ctx.Done():
		return "", &fault{at: e, kind: ErrUnavailable}
	}
	if token := c.present(); token != refused && token != "" { // somebody else was here
		return token, nil
	}
	password, err := c.password()
	if err != nil {
		return "", &fault{at: e, kind: ErrDenied, answered: true, why: fmt.Errorf("the password: %w", err)}
	}
	body, err := json.Marshal(struct {
		Name     string `json:"name"`
		Password string `json:"password"`
	}{c.user, password})
	if err != nil {
		return "", &fault{at: e, kind: ErrDenied, answered: true, why: errors.New("a user or password that JSON cannot hold")}
	}
	defer clear(body)
	result, f := post[authAnswer](ctx, e, "auth/authenticate", "", body)
	if f != nil {
		f.sent = false // what is to be asked was not
		if f.why != nil && password != "" && strings.Contains(f.why.Error(), password) {
			f.why = errors.New("it repeats the password")
		}
		return "", f
	}
	if result.Token == "" || strings.ContainsAny(result.Token, "\r\n\x00") || len(result.Token) > 8<<10 {
		return "", &fault{at: e, kind: ErrUnavailable, why: errors.New("it gives no token")}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = result.Token
	return result.Token, nil
}

type authAnswer struct {
	plain
	Token string `json:"token"`
}

// fault is why an endpoint gave no answer to be used.
type fault struct {
	at       *endpoint
	kind     error // of the package's errors; nil: etcd says that the request is wrong
	why      error // may be nil
	sent     bool  // the request may have been carried out, or may be yet
	answered bool  // the other endpoints would say the same
	token    bool  // etcd asks for a token, or for another one
}

// text is why, without its kind if that is the one which is said already.
func (f *fault) text(said error) string {
	text := f.at.name
	if f.kind != nil && f.kind != said {
		text += ": " + f.kind.Error()
	}
	if f.why != nil {
		text += ": " + f.why.Error()
	}
	return text
}

// error returns what a caller is told: that it is of this kind, if that is not nil.
func (f *fault) error(ctx context.Context, path string, kind error) error {
	kinds := []error{kind}
	if kind == nil || f.kind == ErrNoSpace {
		kinds = append(kinds, f.kind)
	}
	return newError(ctx, path, kinds, f.text(f.kind))
}

// all makes one error of those of all endpoints: of their kind, if it is one.
func all(ctx context.Context, path string, faults []*fault) error {
	kind := faults[0].kind
	for _, f := range faults {
		if f.kind != kind {
			kind = ErrUnavailable
		}
	}
	var texts []string
	for _, f := range faults {
		texts = append(texts, f.text(kind))
	}
	return newError(ctx, path, []error{kind}, strings.Join(texts, "; "))
}

// callError is of some of the package's errors, and of the context's if it has ended.
type callError struct {
	kinds []error
	text  string
}

func newError(ctx context.Context, path string, kinds []error, detail string) error {
	kinds = slices.DeleteFunc(append(kinds, ctx.Err()), func(err error) bool { return err == nil })
	text := "asking etcd for " + path + ": "
	for _, kind := range kinds {
		text += kind.Error() + ": "
	}
	return &callError{kinds, text + detail}
}

func (e *callError) Error() string   { return e.text }
func (e *callError) Unwrap() []error { return e.kinds }
