package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"onionbalancer/internal/socket"
)

// Cluster is the cluster of managers that this one is in, as it sees it.
type Cluster struct {
	Mode    string `json:"mode"` // what they share: "etcd" or "standby"
	Name    string `json:"name"`
	Manager string `json:"manager"` // this one

	Joined bool         `json:"joined"`                  // the others see this manager alive
	Lease  float64      `json:"lease_remaining_seconds"` // until they do not, without another sign of life
	Store  ClusterStore `json:"store"`
	// Reserved is until when this manager goes on with all of its services if the store does
	// not answer: the least of them. Zero if it has none.
	Reserved time.Time `json:"reserved_until,omitzero"`
	Members  []Member  `json:"members"` // the live ones, by name

	Services  int      `json:"services"`          // of the configuration, customers' included
	Owned     int      `json:"owned"`             // of them, by this manager
	Holding   int      `json:"holding"`           // of Owned, those whose reservation has ended
	Elsewhere int      `json:"elsewhere"`         // by other live managers
	Orphaned  int      `json:"orphaned"`          // no live manager can certify them
	Orphans   []string `json:"orphans,omitempty"` // the addresses of the first of them

	Draining bool          `json:"draining"`        // the operator wants this manager to own nothing
	Unfit    string        `json:"unfit,omitempty"` // why it should own nothing while others can
	Counts   ClusterCounts `json:"counts"`
	Warnings []string      `json:"warnings,omitempty"`

	Standby *Standby `json:"standby,omitempty"` // nil unless Mode is "standby", which has nothing else
}

// MaxOrphans is how many Orphans a Cluster names.
const MaxOrphans = 20

// Taking is how many services are owned by nobody who is alive, and will be taken.
func (c Cluster) Taking() int { return max(c.Services-c.Owned-c.Elsewhere-c.Orphaned, 0) }

// ClusterStore is the store that managers share.
type ClusterStore struct {
	Error   string   `json:"error,omitempty"`  // why it does not answer; empty: it does
	Age     float64  `json:"age_seconds"`      // how old what this manager has of it may be
	Latency float64  `json:"latency_seconds"`  // of the last changes
	Bytes   int64    `json:"bytes,omitempty"`  // of its file, as it says; 0: not known
	Alarms  []string `json:"alarms,omitempty"` // that it raised
	Records int      `json:"records"`          // of the cluster, that open
	Damaged int      `json:"damaged_records"`  // that do not
	OldKey  int      `json:"old_key_records"`  // that another key than the first one sealed
}

// ClusterCounts counts what happened since the start.
type ClusterCounts struct {
	Taken  Taken  `json:"taken"`  // services that this manager became the owner of
	Given  uint64 `json:"given"`  // that it gave up
	Fenced uint64 `json:"fenced"` // that another took while it published them
	Failed uint64 `json:"failed"` // changes of owners that the store did not make

	Swaps        Swaps   `json:"swaps"`
	Transactions uint64  `json:"transactions"`        // that Swaps were made in
	Seconds      float64 `json:"transaction_seconds"` // that all of them took

	Held  uint64 `json:"held_uploads"`          // uploads that were not launched, as no counter was reserved for them
	Stale uint64 `json:"stale_uploads_dropped"` // uploads that waited, and were dropped as another owns the service
}

// Taken counts services by why they were taken.
type Taken struct {
	Dead    uint64 `json:"dead"`    // from a manager that showed no sign of life
	Free    uint64 `json:"free"`    // that nobody owned: given up, or new
	Restart uint64 `json:"restart"` // that an earlier process of this manager owned
}

// Swaps counts changes of records by what came of them.
type Swaps struct {
	OK      uint64 `json:"ok"`
	Fenced  uint64 `json:"fenced"`  // the record had been changed by another
	Unknown uint64 `json:"unknown"` // the answer was lost
	Error   uint64 `json:"error"`
}

// Member is a live manager.
type Member struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"` // of the program
	Since    time.Time `json:"since,omitzero"`
	Owned    int       `json:"owned"` // services, when it last said so
	Draining bool      `json:"draining,omitempty"`
	Unfit    string    `json:"unfit,omitempty"`
	Silent   float64   `json:"silent_seconds"`     // since its last sign of life
	Skew     float64   `json:"clock_skew_seconds"` // by which its clock is ahead of this manager's, roughly
}

// Standby is how two machines without a store stand in for each other.
type Standby struct {
	Role    string    `json:"role"`                      // "active", "standby" or "watch"
	Heard   *bool     `json:"heartbeat_heard,omitempty"` // whether the active machine says that it can publish; nil: no heartbeat is configured
	Silence string    `json:"heartbeat_error,omitempty"` // why it said nothing when it was last asked
	Watched []Watched `json:"watched,omitempty"`
}

// Count returns how many of Watched this machine publishes, how many need attention, and when
// HSDirs were last asked of the address for which that is longest ago: the zero time if there
// is none, or one was never asked about.
func (s Standby) Count() (taken, alarmed int, oldest time.Time) {
	for n, w := range s.Watched {
		if w.Taken {
			taken++
		}
		if w.Alarm != "" {
			alarmed++
		}
		if n == 0 || w.Read.Before(oldest) {
			oldest = w.Read
		}
	}
	return taken, alarmed, oldest
}

// Watched is a public address whose published descriptor is looked at.
type Watched struct {
	Address  string    `json:"address"`
	Taken    bool      `json:"taken"`                      // this machine publishes it
	Since    time.Time `json:"since,omitzero"`             // of Taken; zero: always
	Why      string    `json:"why,omitempty"`              // of that
	Revision uint64    `json:"revision_counter,omitempty"` // that was last seen
	Made     time.Time `json:"made,omitzero"`              // when the descriptor that was last seen was made
	Read     time.Time `json:"read,omitzero"`              // when HSDirs were last asked
	Until    time.Time `json:"takes_over,omitzero"`        // when this machine takes over unless something else is seen
	Alarm    string    `json:"alarm,omitempty"`
}

// Owning is a word for who publishes a service of a cluster.
type Owning string

// Who publishes a service. Until the store was read it is not known, and empty.
const (
	OwningHere      Owning = "owned"     // this manager
	OwningElsewhere Owning = "elsewhere" // another live manager
	OwningTaking    Owning = "taking"    // nobody who is alive, until a manager takes it
	OwningOrphan    Owning = "orphan"    // nobody: no live manager can certify it
	OwningHolding   Owning = "holding"   // this manager, which leaves it as it is: its reservation has ended
	OwningDamaged   Owning = "damaged"   // not known: the record cannot be read
)

// Owner is who publishes a service of a cluster.
type Owner struct {
	Manager string `json:"owner,omitempty"` // empty: nobody
	Term    uint64 `json:"term"`            // counts the changes of owners
	Owning  Owning `json:"owning"`
}

// ClusterOperator takes orders about the cluster. A *RefusedError says that an order is at
// fault. It is safe for concurrent use.
type ClusterOperator interface {
	// Status describes the cluster.
	Status() Cluster
	// Drain has this manager give all of its services to others, and take none while another
	// can; with on false it takes part again. It returns before they are given.
	Drain(on bool) error
	// Forget has a manager that is gone taken for dead at once.
	Forget(ctx context.Context, manager string) error
	// Restore writes what this manager knows into a store that was wiped, its own copies
	// included.
	Restore(ctx context.Context) error
}

// ClusterWords are the orders about a cluster.
var ClusterWords = []string{"drain", "undrain", "forget", "restore"}

// ClusterOrder is what an operator says about the cluster.
type ClusterOrder struct {
	Word    string `json:"-"`                 // one of ClusterWords
	Manager string `json:"manager,omitempty"` // with the word "forget"
}

// ClusterAnswer says what is so after an order.
type ClusterAnswer struct {
	Cluster Cluster `json:"cluster"`
}

// errAlone is the refusal of a manager that is in no cluster.
var errAlone = &RefusedError{http.StatusConflict, "this balancer is in no cluster: its configuration has no [cluster] with a store"}

// serveCluster adds what is about the cluster to mux.
func serveCluster(mux *http.ServeMux, operator func() ClusterOperator) {
	mux.HandleFunc("GET /cluster", func(w http.ResponseWriter, _ *http.Request) {
		c := operator()
		if c == nil {
			reply(w, nil, errAlone)
			return
		}
		reply(w, c.Status(), nil)
	})
	mux.HandleFunc("POST /cluster/{word}", func(w http.ResponseWriter, r *http.Request) {
		o := ClusterOrder{}
		err := readOrder(w, r, ClusterWords, &o.Word, &o)
		if err == nil && (o.Word == "forget") != (o.Manager != "") {
			err = &RefusedError{http.StatusBadRequest, "a manager goes with the word \"forget\", and with no other"}
		}
		c := operator()
		switch {
		case err != nil:
		case c == nil:
			err = errAlone
		default:
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(o.patience()))
			answer, failed := carryOut(r.Context(), c, o)
			reply(w, answer, failed)
			return
		}
		reply(w, nil, err)
	})
}

// patience is how long who gives an order waits for the answer. To restore are thousands of
// records, by way of tor perhaps.
func (o ClusterOrder) patience() time.Duration {
	if o.Word == "restore" {
		return 5 * time.Minute
	}
	return socket.Patience
}

// errSilent says that the store does not answer, while who gave the order still waits.
var errSilent = &RefusedError{http.StatusServiceUnavailable, "the store of the cluster does not answer in time: if it does later, it may be done all the same"}

// carryOut carries out an order.
func carryOut(ctx context.Context, c ClusterOperator, o ClusterOrder) (a ClusterAnswer, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.patience()-2*time.Second, errSilent)
	defer cancel()
	switch o.Word {
	case "drain", "undrain":
		err = c.Drain(o.Word == "drain")
	case "forget":
		err = c.Forget(ctx, o.Manager)
	case "restore":
		err = c.Restore(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) == errSilent && !errors.As(err, new(*RefusedError)) {
		err = errSilent
	}
	if err != nil {
		return a, err
	}
	a.Cluster = c.Status()
	return a, nil
}

// QueryCluster asks the daemon whose socket is at path for its cluster.
func QueryCluster(ctx context.Context, path string) (c Cluster, err error) {
	err = ask(ctx, path, http.MethodGet, "/cluster", nil, decodeInto(&c))
	return c, err
}

// OrderCluster has the daemon whose socket is at path carry out an order about the cluster.
func OrderCluster(ctx context.Context, path string, o ClusterOrder) (answer ClusterAnswer, err error) {
	body, err := json.Marshal(o)
	if err != nil {
		return answer, fmt.Errorf("asking the daemon: %w", err)
	}
	err = askFor(ctx, o.patience(), path, http.MethodPost, "/cluster/"+url.PathEscape(o.Word), bytes.NewReader(body), decodeInto(&answer))
	return answer, err
}
