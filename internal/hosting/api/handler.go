package api

import (
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"onionbalancer/internal/hosting"
)

// requestHeader has the id of a request, and of its answer.
const requestHeader = "Request-Id"

// requestForm is what the id of a request may be.
var requestForm = regexp.MustCompile(`^[0-9A-Za-z._:-]{1,128}$`)

// maxBody limits the size of a request's body, in bytes.
const maxBody = 4 << 10

// description is the OpenAPI description of the handlers.
//
//go:embed openapi.json
var description []byte

// server is what the handlers share.
type server struct {
	host      Host
	followers chan struct{} // as many as follow the events at a time
	keepAlive time.Duration // between comments to those
	patience  time.Duration // with one of them that does not read
}

// route is what is served for one method below one path.
type route struct {
	method, path string
	serve        func(*call) error
}

func (s *server) routes() []route {
	return []route{
		{http.MethodGet, "/v1/customers", s.list},
		{http.MethodPost, "/v1/customers", s.add},
		{http.MethodGet, "/v1/customers/{customer}", s.customer},
		{http.MethodDelete, "/v1/customers/{customer}", s.change(hosting.Removed)},
		{http.MethodPost, "/v1/customers/{customer}/suspend", s.change(hosting.Suspended)},
		{http.MethodPost, "/v1/customers/{customer}/resume", s.change(hosting.Active)},
		{http.MethodPost, "/v1/customers/{customer}/move", s.move},
		{http.MethodGet, "/v1/shards", s.shards},
		{http.MethodPost, "/v1/shards/{shard}/installed", s.installed},
		{http.MethodGet, "/v1/events", s.events},
		{http.MethodGet, "/v1/openapi.json", s.describe},
	}
}

// Handler serves host below /v1/.
func Handler(host Host) http.Handler {
	return newServer(host).handler()
}

func newServer(host Host) *server {
	return &server{host: host, followers: make(chan struct{}, 32), keepAlive: 15 * time.Second, patience: 10 * time.Second}
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	methods := make(map[string][]string) // by path
	for _, r := range s.routes() {
		mux.Handle(r.method+" "+r.path, identified(r.serve))
		methods[r.path] = append(methods[r.path], r.method)
		if r.method == http.MethodGet {
			methods[r.path] = append(methods[r.path], http.MethodHead)
		}
	}
	for path := range maps.Keys(methods) {
		allowed := strings.Join(append(methods[path], http.MethodOptions), ", ")
		mux.Handle(path, identified(func(c *call) error {
			c.Header().Set("Allow", allowed)
			if c.r.Method == http.MethodOptions {
				c.WriteHeader(http.StatusNoContent)
				return nil
			}
			return refuse(http.StatusMethodNotAllowed, "method_not_allowed", "%s is not for this path, but %s", c.r.Method, allowed)
		}))
	}
	mux.Handle("/v1/", identified(func(*call) error {
		return refuse(http.StatusNotFound, "not_found", "there is nothing at this path: see /v1/openapi.json")
	}))
	return mux
}

// call is a request that is being answered.
type call struct {
	http.ResponseWriter
	r       *http.Request
	request string // the id that came with it, or empty
}

// identified answers with serve, or with the error that it returns.
func identified(serve func(*call) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{ResponseWriter: w, r: r}
		w.Header().Set(requestHeader, rand.Text())
		w.Header().Set("Cache-Control", "no-store")
		err := c.identify(r.Header.Values(requestHeader)...)
		if err == nil {
			err = serve(c)
		}
		if err != nil {
			c.fail(err)
		}
	})
}

// identify takes the request's id, given once, or twice the same.
func (c *call) identify(ids ...string) error {
	for _, id := range ids {
		if !requestForm.MatchString(id) {
			return refuse(http.StatusBadRequest, "bad_request", "a request's id has 1 to 128 of a-z, A-Z, 0-9, \".\", \"_\", \":\" and \"-\"")
		}
		if c.request != "" && c.request != id {
			return refuse(http.StatusBadRequest, "bad_request", "the request has two different ids")
		}
		c.request = id
		c.Header().Set(requestHeader, id)
	}
	return nil
}

// answer writes body as JSON.
func (c *call) answer(status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	c.Header().Set("Content-Type", "application/json")
	c.WriteHeader(status)
	_, _ = c.Write(append(text, '\n')) // clients may have closed the connection
	return nil
}

// fail writes the answer that is an error.
func (c *call) fail(err error) {
	e := errorOf(err)
	e.RequestID = c.Header().Get(requestHeader)
	if e.Status == http.StatusServiceUnavailable {
		c.Header().Set("Retry-After", "5")
	}
	_ = c.answer(e.Status, e) // an Error can be written
}

// parameters returns those of the query, each of which has one of the names and stands
// there once.
func (c *call) parameters(names ...string) (map[string]string, error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "bad_request", "reading the query: %v", err)
	}
	values := make(map[string]string)
	for name, all := range query {
		if !slices.Contains(names, name) {
			return nil, refuse(http.StatusBadRequest, "bad_request", "there is no parameter %q, but %q", name, names)
		}
		if len(all) > 1 {
			return nil, refuse(http.StatusBadRequest, "bad_request", "the parameter %q is given twice", name)
		}
		values[name] = all[0]
	}
	return values, nil
}

// fields reads the body: nothing, or a JSON object of strings, each under one of the names
// of into and there once.
func (c *call) fields(into map[string]*string) error {
	body, err := io.ReadAll(http.MaxBytesReader(c, c.r.Body, maxBody))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return refuse(http.StatusRequestEntityTooLarge, "too_large", "the body has more than %d bytes", maxBody)
	case err != nil:
		return refuse(http.StatusBadRequest, "bad_request", "reading the body: %v", err)
	case len(body) == 0:
		return nil
	}
	if kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "wrong_content_type", "the body is to be JSON, and the header \"Content-Type: application/json\" is to say so")
	}
	if err := readObject(string(body), into); err != nil {
		return refuse(http.StatusBadRequest, "bad_request", "reading the body: %v", err)
	}
	return nil
}

// readObject reads a JSON object of strings. The decoder alone would take names in other
// cases, and the last of several.
func readObject(text string, into map[string]*string) error {
	names := slices.Sorted(maps.Keys(into))
	seen := make(map[string]bool)
	decoder := json.NewDecoder(strings.NewReader(text))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return errors.Join(errors.New("want an object"), err)
	}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		name := token.(string) // else the decoder had complained
		value, known := into[name]
		if !known {
			return fmt.Errorf("there is no field %q, but %q", name, names)
		}
		if seen[name] {
			return fmt.Errorf("the field %q is there twice", name)
		}
		seen[name] = true
		if token, err = decoder.Token(); err != nil {
			return err
		}
		said, ok := token.(string)
		if !ok {
			return fmt.Errorf("the field %q is to be a string", name)
		}
		*value = said
	}
	if _, err := decoder.Token(); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("there is more behind the object")
	}
	return nil
}

// describe serves the description.
func (s *server) describe(c *call) error {
	if _, err := c.parameters(); err != nil {
		return err
	}
	c.Header().Set("Content-Type", "application/json")
	_, _ = c.Write(description)
	return nil
}
