package check

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

const (
	maxHeader     = 64 << 10 // bytes of an answer's header
	maxBody       = 64 << 10 // bytes of its body in which the text is searched
	maxError      = 200      // bytes of an error about it
	maxProvisions = 5        // answers of class 1xx before the one that counts
)

// request makes the request of an HTTP check. spoken says that the application
// answered in HTTP.
func request(ctx context.Context, conn net.Conn, address descriptor.Address, spec health.Spec) (spoken bool, err error) {
	ask, err := newRequest(ctx, address, spec)
	if err != nil {
		return false, err
	}
	if err := ask.Write(conn); err != nil {
		return false, fmt.Errorf("sending the request: %w", err)
	}
	limited := &io.LimitedReader{R: conn, N: maxHeader}
	answer, err := readAnswer(bufio.NewReader(limited), ask)
	if err != nil {
		if limited.N <= 0 {
			err = fmt.Errorf("its header is longer than %d bytes", maxHeader)
		}
		return false, fmt.Errorf("reading the answer: %w", shorten(err))
	}
	// The body is not closed: that would read it to its end. The connection is.
	match, err := health.MatchStatus(spec.Status, answer.StatusCode)
	if err == nil && !match {
		err = fmt.Errorf("the status is %d", answer.StatusCode)
	}
	if err != nil || spec.Text == "" {
		return true, err
	}
	limited.N = 2 * maxBody // with the frames of its chunks
	return true, findText(answer.Body, spec.Text)
}

// shorten bounds an error that may repeat what the application sent.
func shorten(err error) error {
	if text := err.Error(); len(text) > maxError {
		return errors.New(strings.ToValidUTF8(text[:maxError], "") + "…")
	}
	return err
}

// newRequest has as few headers as HAProxy's httpchk: nothing says who asks.
func newRequest(ctx context.Context, address descriptor.Address, spec health.Spec) (*http.Request, error) {
	host := address.String()
	if spec.Port != 80 {
		host = net.JoinHostPort(host, strconv.Itoa(int(spec.Port)))
	}
	path := spec.Path
	if path == "" {
		path = "/"
	}
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return nil, errors.New("the path of the check is no path of a URL")
	}
	if spec.Host != "" {
		ask.Host = spec.Host
	}
	ask.Header.Set("User-Agent", "") // none
	ask.Close = true
	return ask, nil
}

// readAnswer reads the header of the answer that counts.
func readAnswer(r *bufio.Reader, ask *http.Request) (*http.Response, error) {
	for range maxProvisions {
		answer, err := http.ReadResponse(r, ask)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer, nil
		}
	}
	return nil, errors.New("only provisional answers")
}

// findText searches a body. What it may have after its end is not read.
func findText(body io.Reader, text string) error {
	begin, err := io.ReadAll(io.LimitReader(body, maxBody))
	switch {
	case bytes.Contains(begin, []byte(text)):
		return nil
	case err != nil:
		return fmt.Errorf("reading the body: %w", err)
	}
	return fmt.Errorf("the text is not in the first %d bytes of the body", len(begin))
}
