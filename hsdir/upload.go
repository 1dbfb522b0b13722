package hsdir

import (
	"context"
	"errors"
	"time"

	"onionbalancer/descriptor"
)

// Poster has tor upload a descriptor to one HSDir, and returns nil when the
// HSDir confirmed: address is 56 characters, hsdir 40 hexadecimal digits. It
// returns soon after ctx ends, and may be used by several goroutines. An error
// with a method Reason() string gives tor's word for a failed upload.
type Poster interface {
	HSPost(ctx context.Context, address, hsdir string, body []byte) error
}

// Urgency says which uploads go first: those of a lower one.
type Urgency int

// The urgencies, by how much clients lose while the upload is pending.
const (
	UrgencyNoLivePoint Urgency = iota // no introduction point published for the address is alive
	UrgencyNew                        // nothing is published for the address yet
	UrgencyPointsDead                 // some published points are dead
	UrgencyRotation                   // a new period or shared random value
	UrgencyRefresh                    // an unchanged descriptor
	urgencies          = iota
)

// Upload is one edition of a descriptor: the contents for the slots of one address
// and period.
type Upload struct {
	Address descriptor.Address
	Period  descriptor.Period
	Slots   []Slot // in the order of priority; not changed afterwards
	Urgency Urgency
	// Body returns the bytes for one slot. It is called when the upload is
	// launched, again for every retry, and by several goroutines; it returns soon
	// after ctx ends. ErrSuperseded drops the slot without a report; after ErrLater it is
	// tried again soon, without a report either. Any other error is reported as
	// Unencoded, and the queue does not retry it.
	Body func(ctx context.Context, slot Slot) ([]byte, error)
	// Release is called with a body that was uploaded, and that the queue has no more
	// use for. It may be nil.
	Release func(body []byte)
	// Report is told the result of every attempt, by several goroutines. It may
	// use the queue, and may be nil. A call in progress when its Upload is
	// replaced or cancelled is not interrupted.
	Report func(UploadResult)
}

// ErrSuperseded is returned by an Upload's Body for a slot that needs no upload
// any more.
var ErrSuperseded = errors.New("superseded by another edition")

// ErrLater is returned by an Upload's Body while nothing may be uploaded, whatever the
// HSDir: it is no failure of the slot's.
var ErrLater = errors.New("nothing may be uploaded at this moment")

// UploadResult is the result of one attempt to fill a slot.
type UploadResult struct {
	Slot Slot
	Err  error // nil if the HSDir confirmed
	// Rejected says that the HSDir refused the descriptor: it has one with the
	// same or a higher revision counter, or finds it invalid. It may have
	// this very one, from an earlier attempt that it did not answer. It is not
	// retried: that takes another descriptor.
	Rejected  bool
	Unencoded bool          // Err is from Body, and nothing was sent
	Attempts  int           // at this slot in a row, this one and those of earlier editions included
	RetryIn   time.Duration // until the queue retries; 0 for never
	Took      time.Duration
}

// uploadRejected is tor's REASON for an HSDir that refused (HTTP status 400).
const uploadRejected = "UPLOAD_REJECTED"

// rejected reports whether err is an HSDir's refusal.
func rejected(err error) bool {
	var failed interface{ Reason() string }
	return errors.As(err, &failed) && failed.Reason() == uploadRejected
}

// UploadConfig configures an UploadQueue. Zero values stand for the defaults.
type UploadConfig struct {
	Poster Poster

	InFlight  int           // uploads in flight at a time; 64
	PerSecond float64       // uploads launched per second, in the long run; 50
	Burst     int           // uploads launched at once after a pause; 100
	Patience  time.Duration // timeout of one upload, and of one call of Body; 60 s
	// The backoff of an upload that was not answered, from RetryMin, 2 s, up to
	// RetryMax, 5 min; Random is that of backoff.Policy.
	RetryMin, RetryMax time.Duration
	Random             func() float64
}
