package status

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"onionbalancer/internal/socket"
)

// SocketName is the socket's name inside the daemon's state directory.
const SocketName = "status.sock"

// maxAnswer limits the size of an answer, in bytes: thousands of services.
const maxAnswer = 64 << 20 // 64 MiB

// Serve answers with snapshot() on the unix socket at path until ctx ends, as socket.Serve
// does: GET /status as JSON, GET /metrics as Prometheus text. If there is an operator, it
// takes orders, too: POST /instances/WORD and /cluster/WORD, and tells of the cluster, GET
// /cluster, and of single customers: GET /status?customer=NAME, GET /metrics?customers=1.
// What is below /v1/ is customers', if there are any. No GET changes anything.
func Serve(ctx context.Context, path string, log *slog.Logger, snapshot func() Snapshot, operator Operator, customers http.Handler) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		customer := r.URL.Query().Get("customer")
		if customer == "" {
			reply(w, snapshot(), nil)
			return
		}
		if operator == nil {
			reply(w, nil, &RefusedError{http.StatusNotFound, "there are no customers"})
			return
		}
		answer, err := operator.CustomerStatus(customer)
		reply(w, answer, err)
	})
	mux.Handle("GET /metrics", metricsHandler(snapshot, operator))
	if operator != nil {
		operate(mux, operator)
	}
	if customers != nil {
		mux.Handle("/v1/", customers)
	}
	return socket.Serve(ctx, path, log, mux)
}

// Query asks the daemon whose socket is at path for its snapshot.
func Query(ctx context.Context, path string) (s Snapshot, err error) {
	err = ask(ctx, path, http.MethodGet, "/status", nil, decodeInto(&s))
	return s, err
}

// QueryCustomer asks the daemon whose socket is at path for one customer, by its name or
// address.
func QueryCustomer(ctx context.Context, path, customer string) (c Customer, err error) {
	err = ask(ctx, path, http.MethodGet, "/status?"+url.Values{"customer": {customer}}.Encode(), nil, decodeInto(&c))
	return c, err
}

// Metrics copies the metrics of the daemon whose socket is at path to out, as
// Prometheus text.
func Metrics(ctx context.Context, path string, out io.Writer) error {
	return ask(ctx, path, http.MethodGet, "/metrics", nil, func(body io.Reader) error {
		_, err := io.Copy(out, body)
		return err
	})
}

// ask sends a request to the daemon whose socket is at path, and reads the answer.
func ask(ctx context.Context, path, method, page string, body io.Reader, read func(io.Reader) error) error {
	return askFor(ctx, socket.Patience, path, method, page, body, read)
}

// askFor is ask for an answer that may take another time.
func askFor(ctx context.Context, patience time.Duration, path, method, page string, body io.Reader, read func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, method, socket.Host+page, body)
	if err != nil {
		return fmt.Errorf("asking the daemon: %w", err)
	}
	response, err := socket.Do(path, request, patience)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refusal(response)
	}
	if err := read(io.LimitReader(response.Body, maxAnswer)); err != nil {
		return fmt.Errorf("reading the daemon's %s: %w", page[1:], err)
	}
	return nil
}
