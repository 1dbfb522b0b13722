package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"onionbalancer/internal/printable"
)

// Words are what an operator may say about an instance at run time.
var Words = []string{"drain", "ready", "maint", "weight", "load"}

// Order is what an operator says about one instance.
type Order struct {
	Word     string `json:"-"`                 // one of Words
	Instance string `json:"instance"`          // name or address
	Service  string `json:"service,omitempty"` // the public address, or a shard's name, for a name that stands for several instances
	Weight   string `json:"weight,omitempty"`  // with the word "weight": "50", "50%" or "default"
	Load     string `json:"load,omitempty"`    // with the word "load": a number from 0 on, or "-" for none
	Force    bool   `json:"force,omitempty"`   // take the last one out as well

	// Seconds is how long Load counts; 0 for health.LoadKept.
	Seconds float64 `json:"for_seconds,omitempty"`
}

// Answer says what an order has done, or what is so.
type Answer struct {
	Address string    `json:"address"` // of the instance
	Admin   string    `json:"admin"`   // in force
	Weight  string    `json:"weight"`  // "50", "50%", or "default" for the configured one
	Since   time.Time `json:"since,omitzero"`
	Uses    []Use     `json:"services"`
	Notes   []string  `json:"notes,omitempty"` // what an operator should know
}

// Use is a service's use of an instance, or a shard's.
type Use struct {
	Service  string   `json:"service,omitempty"` // the public address
	Shard    string   `json:"shard,omitempty"`   // or the name of a shard
	Strategy string   `json:"strategy"`
	Instance Instance `json:"instance"`
}

// Name is the service's address, or the shard's name.
func (u Use) Name() string {
	if u.Shard != "" {
		return "shard " + u.Shard
	}
	return u.Service
}

// Users says how many services and shards use the instance.
func (a Answer) Users() string {
	shards := 0
	for _, u := range a.Uses {
		if u.Shard != "" {
			shards++
		}
	}
	switch services := len(a.Uses) - shards; {
	case shards == 0:
		return printable.Count(services, "service")
	case services == 0:
		return printable.Count(shards, "shard")
	default:
		return printable.Count(services, "service") + " and " + printable.Count(shards, "shard")
	}
}

// Operator carries out orders. A *RefusedError says that an order is at fault, any
// other error that it could not be carried out; then nothing has changed.
type Operator interface {
	Operate(ctx context.Context, o Order) (Answer, error)
	// InstanceStatus describes an instance, by its name or address as in an Order.
	InstanceStatus(instance, service string) (Answer, error)
	// CustomerStatus describes a customer, by its name or address.
	CustomerStatus(customer string) (Customer, error)
	// EachCustomer calls do for every customer whose address is published.
	EachCustomer(do func(Published))
	// Cluster takes orders about the cluster; nil if this balancer is in none.
	Cluster() ClusterOperator
}

// RefusedError says why an order is refused.
type RefusedError struct {
	Status int // of HTTP
	Reason string
}

func (e *RefusedError) Error() string { return e.Reason }

// maxOrder limits the size of an order, in bytes.
const maxOrder = 4 << 10

// operate adds what an operator may do to mux.
func operate(mux *http.ServeMux, operator Operator) {
	mux.HandleFunc("POST /instances/{word}", func(w http.ResponseWriter, r *http.Request) {
		o := Order{}
		if err := readOrder(w, r, Words, &o.Word, &o); err != nil {
			reply(w, nil, err)
			return
		}
		answer, err := operator.Operate(r.Context(), o)
		reply(w, answer, err)
	})
	mux.HandleFunc("GET /instances/{instance}", func(w http.ResponseWriter, r *http.Request) {
		answer, err := operator.InstanceStatus(r.PathValue("instance"), r.URL.Query().Get("service"))
		reply(w, answer, err)
	})
	serveCluster(mux, operator.Cluster)
}

// readOrder reads the word of an order, one of words, and the order itself.
func readOrder(w http.ResponseWriter, r *http.Request, words []string, word *string, order any) error {
	*word = r.PathValue("word")
	if !slices.Contains(words, *word) {
		return &RefusedError{http.StatusNotFound, fmt.Sprintf("there is no word %q, only %q", *word, words)}
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(order); err != nil {
		status := http.StatusBadRequest
		if errors.As(err, new(*http.MaxBytesError)) {
			status = http.StatusRequestEntityTooLarge
		}
		return &RefusedError{status, "reading the order: " + err.Error()}
	}
	if _, err := decoder.Token(); err != io.EOF {
		return &RefusedError{http.StatusBadRequest, "reading the order: there is more behind it"}
	}
	return nil
}

// failure is the body of an answer that is an error.
type failure struct {
	Error string `json:"error"`
}

// reply writes an answer, or the error instead.
func reply(w http.ResponseWriter, answer any, err error) {
	status := http.StatusOK
	if err != nil {
		status, answer = http.StatusInternalServerError, failure{err.Error()}
		if refused := (*RefusedError)(nil); errors.As(err, &refused) {
			status = refused.Status
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // clients may have closed the connection
}

// Operate has the daemon whose socket is at path carry out an order.
func Operate(ctx context.Context, path string, o Order) (answer Answer, err error) {
	body, err := json.Marshal(o)
	if err != nil {
		return answer, fmt.Errorf("asking the daemon: %w", err)
	}
	err = ask(ctx, path, http.MethodPost, "/instances/"+url.PathEscape(o.Word), bytes.NewReader(body), decodeInto(&answer))
	return answer, err
}

// QueryInstance asks the daemon whose socket is at path for one instance, by its name
// or address as in an Order.
func QueryInstance(ctx context.Context, path, instance, service string) (answer Answer, err error) {
	page := "/instances/" + url.PathEscape(instance)
	if service != "" {
		page += "?" + url.Values{"service": {service}}.Encode()
	}
	err = ask(ctx, path, http.MethodGet, page, nil, decodeInto(&answer))
	return answer, err
}

func decodeInto(v any) func(io.Reader) error {
	return func(body io.Reader) error { return json.NewDecoder(body).Decode(v) }
}

// refusal returns the error of an answer that is not 200 OK.
func refusal(response *http.Response) error {
	var f failure
	if err := json.NewDecoder(io.LimitReader(response.Body, maxOrder)).Decode(&f); err == nil && f.Error != "" {
		return &RefusedError{response.StatusCode, f.Error}
	}
	return fmt.Errorf("asking the daemon: it answered %s; is it of another version than this program?", response.Status)
}
