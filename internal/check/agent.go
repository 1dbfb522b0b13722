package check

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"onionbalancer/internal/health"
)

// maxLine is how long an agent's line may be.
const maxLine = 4096

// askAgent reads the line of an HAProxy agent, up to the first line end, or the
// end of the connection. Nothing is sent, as HAProxy does without agent-send.
func askAgent(conn net.Conn) (spoken bool, report health.AgentReport, err error) {
	line, err := readLine(bufio.NewReader(io.LimitReader(conn, maxLine+1)))
	if err != nil {
		return false, report, fmt.Errorf("reading the agent's line: %w", err)
	}
	if line == "" { // no statement
		return false, report, nil
	}
	report, err = health.ParseAgent(line)
	if err != nil && report.Text == "" {
		report.Text = err.Error() // for HAProxy that is no failure either
	}
	return true, report, nil
}

func readLine(r *bufio.Reader) (string, error) {
	var line strings.Builder
	for line.Len() <= maxLine {
		b, err := r.ReadByte()
		switch {
		case errors.Is(err, io.EOF), err == nil && (b == '\n' || b == '\r'):
			return line.String(), nil
		case err != nil:
			return "", err
		}
		line.WriteByte(b)
	}
	return "", fmt.Errorf("it is longer than %d bytes", maxLine)
}
