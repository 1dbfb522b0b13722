// Package check makes health checks of onion services through tor: a connection to a
// port, an HTTP request, or the line of an HAProxy agent. A Runner makes them in each
// instance's own rhythm. Package health judges the results.
package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/health"
)

// Dialer connects to onion services through tor. internal/tor's Pool is one.
type Dialer interface {
	Dial(ctx context.Context, v health.Visit) (net.Conn, health.Trace, error)
	// Ended returns a channel that is closed when the circuit ends that earlier visits
	// like v share, or nobody can tell any more. ctx ends the watching.
	Ended(ctx context.Context, v health.Visit) (ended <-chan struct{}, err error)
	// Authorize gives tor the client key of an onion service, Revoke takes it back.
	Authorize(ctx context.Context, address descriptor.Address, key *descriptor.ClientKey) error
	Revoke(ctx context.Context, address descriptor.Address) error
}

// Once makes one check of the onion service at address, or at spec.Address if it is
// set, by the circuits of that name, within spec.Timeout. fresh says that
// the name is new.
func Once(ctx context.Context, d Dialer, address descriptor.Address, spec health.Spec, circuit string, fresh bool) health.Result {
	if spec.Address != (descriptor.Address{}) {
		address = spec.Address
	}
	ctx, cancel := context.WithTimeout(ctx, spec.Timeout)
	defer cancel()
	result := health.Result{Began: time.Now(), Fresh: fresh}
	conn, trace, err := d.Dial(ctx, health.Visit{Address: address, Port: spec.Port, Circuit: circuit, Via: spec.Via, Patient: spec.Patient})
	result.Via, result.Stage, result.Points, result.Err = trace.Via, trace.Stage, trace.Points, err
	switch {
	case err != nil:
		if answerEnough(spec, trace.Stage, err) {
			result.Err = nil
		}
	case spec.Kind == health.TCP:
		_ = conn.Close()
	default:
		speak(ctx, conn, address, spec, &result)
	}
	result.Ended = time.Now()
	return result
}

// answerEnough reports whether a check passes that did not connect.
func answerEnough(spec health.Spec, stage health.Stage, err error) bool {
	if stage != health.Answered {
		return false
	}
	// HAProxy: failure to connect to the agent is not considered an error.
	return spec.Kind == health.Agent ||
		spec.Kind == health.TCP && spec.AnyPort && !errors.Is(err, health.ErrRefused) && !errors.Is(err, health.ErrSilent)
}

// speak makes the part of a check that has the application answer.
func speak(ctx context.Context, conn net.Conn, address descriptor.Address, spec health.Spec, result *health.Result) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var spoken bool
	switch spec.Kind {
	case health.HTTP:
		spoken, result.Err = request(ctx, conn, address, spec)
	case health.Agent:
		spoken, result.Report, result.Err = askAgent(conn)
	default:
		result.Err = fmt.Errorf("no check of kind %q", spec.Kind)
	}
	if spoken {
		result.Stage = health.Spoken
	}
	if result.Err != nil && ctx.Err() != nil {
		result.Err = fmt.Errorf("%w: %w", result.Err, ctx.Err())
	}
	if result.Err != nil {
		result.Err = fmt.Errorf("checking %s:%d: %w", address.Short(), spec.Port, result.Err)
	}
}
