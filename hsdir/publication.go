package hsdir

import (
	"context"
	"errors"
	"time"

	"onionbalancer/descriptor"
)

// Publication is one descriptor and the slots to fill with it.
type Publication struct {
	Address descriptor.Address
	Period  descriptor.Period
	Slots   []Slot // those named first are filled first, and Reserve ones last
	// Adds says that the slots join those of earlier publications for the same
	// Address and Period. Without it, what is still to be done for these is
	// dropped: the publication takes their place.
	Adds bool
	// Encode makes the bytes of one upload. It is called once for each, so that
	// no two are encrypted alike, and by several goroutines. It returns soon
	// after ctx ends.
	Encode func(ctx context.Context) ([]byte, error)
	// Slow says that Encode may take long or fail for a while, because it asks a
	// token for signatures. It is then called for one slot of the address at a
	// time, before the upload takes one of the Publisher's places; and when it
	// fails, all slots of the address wait.
	Slow bool
	// Report is told what became of each upload, by several goroutines. It may
	// use the Publisher. No more is reported of what was dropped; but a report
	// that is under way at the time may still come.
	Report func(UploadResult)
}

// UploadResult is what became of one upload.
type UploadResult struct {
	Slot Slot
	Err  error // nil when the HSDir confirmed
	// Rejected says that the HSDir refused the descriptor: it has one with the
	// same or a higher revision counter, or finds a fault with it. When an upload
	// before went unanswered, it may be that one that it has. It is not tried
	// again: it takes another descriptor.
	Rejected bool
	Unmade   bool          // Err is Encode's, and nothing was sent
	Failures int           // uploads to this slot, in a row, that nobody answered, or to any that were Unmade
	Retry    time.Duration // until it is tried again; 0 for never
	Took     time.Duration
}

// uploadRejected is tor's word for an HSDir that refused (HTTP status 400).
const uploadRejected = "UPLOAD_REJECTED"

// rejected reports whether err is an HSDir's refusal.
func rejected(err error) bool {
	var failed interface{ Reason() string }
	return errors.As(err, &failed) && failed.Reason() == uploadRejected
}
