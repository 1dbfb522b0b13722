// Package event has the events of a balancer as values. An event is
// recorded once, where it happens; the log, the history in the store and the
// counters of the metrics are all made from the record.
package event

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"onionbalancer/descriptor"
)

// Kind is the kind of an event. Kinds are stored in the history: they are never renamed.
type Kind string

// The kinds.
const (
	Consensus     Kind = "consensus"      // tor has a new consensus
	Period        Kind = "period"         // a new period or shared random value began
	InstanceState Kind = "instance_state" // an instance's state changed
	Check         Kind = "check"          // checks found something about an instance
	Operator      Kind = "operator"       // the operator's word about an instance changed, or took effect
	ShareFell     Kind = "share_fell"     // an instance gets half of its clients, or fewer
	Lack          Kind = "lack"           // no instance is reachable, or one is again
	Certified     Kind = "certified"      // a custodian certified a descriptor-signing key
	Custody       Kind = "custody"        // something about the keys that an operator should know
	Publishing    Kind = "publishing"     // an edition was handed to the upload queue
	Published     Kind = "published"      // the first HSDir confirmed, for the first time
	UploadFailed  Kind = "upload_failed"  // one upload was not confirmed
	Warning       Kind = "warning"        // a warning that was not there before
	Clients       Kind = "clients"        // other clients may read a descriptor
	Reload        Kind = "reload"         // a configuration was taken over, or refused
	Tor           Kind = "tor"            // a tor connected, died or moved its services
	Shard         Kind = "shard"          // a shard's state changed, or it has another warning
	Customer      Kind = "customer"       // a customer of a shard was added or changed
	Cluster       Kind = "cluster"        // managers came or went, or services changed their owner
	Standby       Kind = "standby"        // two machines without a store: one took over or yielded, an alarm, the heartbeat
)

// Event is something that happened at one moment.
type Event struct {
	At    time.Time
	Kind  Kind
	Level slog.Level
	// Service is the public address concerned, the zero Address for the
	// balancer as a whole.
	Service descriptor.Address
	Text    string      // for people, without the values in Attrs
	Attrs   []slog.Attr // no secrets, and no whole onion addresses
}

// A Recorder takes events. It never blocks, and may be used by several
// goroutines.
type Recorder func(Event)

// Stored is an Event as the history has it.
type Stored struct {
	At      time.Time      `json:"at"`
	Kind    Kind           `json:"kind"`
	Level   slog.Level     `json:"level"`
	Service string         `json:"service,omitempty"` // the whole address
	Text    string         `json:"text"`
	Attrs   map[string]any `json:"attrs,omitempty"`
}

// MarshalJSON writes e as a Stored.
func (e Event) MarshalJSON() ([]byte, error) {
	out := Stored{At: e.At, Kind: e.Kind, Level: e.Level, Text: e.Text}
	if e.Service != (descriptor.Address{}) {
		out.Service = e.Service.String()
	}
	for _, a := range e.Attrs {
		if out.Attrs == nil {
			out.Attrs = make(map[string]any, len(e.Attrs))
		}
		value := a.Value.Resolve().Any()
		if err, ok := value.(error); ok {
			value = err.Error()
		}
		out.Attrs[a.Key] = value
	}
	return json.Marshal(out)
}

// Log returns a Recorder that writes events to log. name returns the name of a
// service in the log.
func Log(log *slog.Logger, name func(descriptor.Address) slog.LogValuer) Recorder {
	return func(e Event) {
		if !log.Enabled(context.Background(), e.Level) {
			return
		}
		attrs := e.Attrs
		if e.Service != (descriptor.Address{}) {
			attrs = append([]slog.Attr{slog.Any("service", name(e.Service))}, attrs...)
		}
		log.LogAttrs(context.Background(), e.Level, e.Text, attrs...)
	}
}
