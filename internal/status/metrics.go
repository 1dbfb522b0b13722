package status

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"onionbalancer/internal/health"
)

// all lists every metric.
var all []*prometheus.Desc

// describe makes the description of a metric. Times are seconds since the
// epoch; any other metric that does not count is a gauge.
func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("balancer_"+name, help, labels, nil)
	all = append(all, d)
	return d
}

// The labels. An instance is called "backend", since Prometheus itself calls the
// program that it reads "instance".
const (
	byService = "service"
	byShard   = "shard"
	byBackend = "backend"
	byTor     = "tor"
)

// The metrics. Labels: service is the public address, shortened; backend is an
// instance's name; tor is one of balancer's tors; shard is its name; state and form are the
// words of the status. A backend of a shard has the label shard, and an empty service.
var (
	descBuild     = describe("build_info", "Constantly 1: the version that runs.", "version")
	descStart     = describe("start_time_seconds", "When the daemon started.")
	descWarnings  = describe("warnings", "Warnings about the daemon as a whole.")
	descLoaded    = describe("config_loaded_time_seconds", "When the configuration in force was loaded.")
	descReload    = describe("last_reload_successful", "Whether the last reload was taken over.")
	descReloadAt  = describe("last_reload_time_seconds", "When the configuration was last reloaded.")
	descConnected = describe("tor_connected", "Whether tor's control port answers.", byTor)
	descServing   = describe("tor_serving", "Whether services use the tor: 0 while they are moved to others.", byTor)
	descRestarts  = describe("tor_restarts_total", "Restarts of a tor of balancer's own.", byTor)
	descUploading = describe("tor_uploads_pending", "Uploads to HSDirs that are neither confirmed nor given up.", byTor)
	descUploads   = describe("tor_uploads_total", "Uploads that were tried, by result.", byTor, "result")
	descConsensus = describe("consensus_age_seconds", "Time since the consensus in use became valid.")
	descHSDirs    = describe("consensus_hsdirs", "HSDirs in the consensus.")
	descEvents    = describe("events_total", "What happened since the start, by kind.", "kind")
	descState     = describe("service_state", "1 for the state that the service is in.", byService, "state")
	descTrouble   = describe("service_warnings", "Warnings about the service.", byService)
	descInstances = describe("service_instances", "Backends by state.", byService, "state")
	descBackend   = describe("backend_state", "1 for the state that the backend is in.", byService, byShard, byBackend, "state")
	descOffered   = describe("backend_introduction_points", "Introduction points that could be used.", byService, byShard, byBackend)
	descUsed      = describe("backend_published_points", "Introduction points of the backend in the descriptor.", byService, byShard, byBackend)
	descShare     = describe("backend_expected_share_ratio", "Its expected share of the visitors, 0 to 1.", byService, byShard, byBackend)
	descCheck     = describe("backend_check", "1 for the operating state that the backend's checks found.", byService, byShard, byBackend, "state")
	descChecks    = describe("backend_checks_total", "Checks of the backend by result.", byService, byShard, byBackend, "result")
	descTook      = describe("backend_check_duration_seconds", "How long the last check took.", byService, byShard, byBackend)
	descChecked   = describe("backend_last_check_time_seconds", "When the last check ended.", byService, byShard, byBackend)
	descPanic     = describe("service_panic", "Whether backends stay in use against what checks say.", byService)
	descAdmin     = describe("backend_admin", "1 for the administrative state that the backend is in.", byService, byShard, byBackend, "state")
	descWeight    = describe("backend_weight", "The weight in force.", byService, byShard, byBackend)
	descLoad      = describe("backend_load", "Its load as told, while that counts.", byService, byShard, byBackend)
	descRenewed   = describe("backend_renewed_time_seconds", "When it last published, at the latest.", byService, byShard, byBackend)
	descFetched   = describe("backend_last_fetch_time_seconds", "When its descriptor was last asked for.", byService, byShard, byBackend)
	descClients   = describe("service_authorized_clients", "Clients that alone can read the descriptor; 0: everybody can.", byService)
	descBroken    = describe("backend_path_broken", "Whether visitors of the public address do not reach the backend, though it answers at its own.", byService, byShard, byBackend)
	descVisited   = describe("service_visited_time_seconds", "When a visit of the public address last passed.", byService)
	descRounds    = describe("service_rounds_total", "Rounds from the consensus to the HSDirs.", byService)
	descRoundAt   = describe("service_last_round_time_seconds", "When the last round was.", byService)
	descPoints    = describe("descriptor_introduction_points", "Introduction points in a descriptor.", byService, "descriptor")
	descSlots     = describe("descriptor_slots", "HSDirs that a descriptor goes to.", byService, "descriptor")
	descConfirmed = describe("descriptor_confirmed_slots", "HSDirs that confirmed a descriptor.", byService, "descriptor")
	descReadBack  = describe("descriptor_read_back_slots", "HSDirs that clients ask, by what they last returned.", byService, "descriptor", "holds")
	descCustody   = describe("custody_info", "Constantly 1: who keeps the identity key, and where the signing keys are.", byService, "form", "signing")
	descExpiry    = describe("certificate_expiry_time_seconds", "When the last certificate for the descriptor ends that clients fetch now.", byService)
	descPeriods   = describe("custody_periods_left", "Periods with certificates made offline, the present one included.", byService)
	descRemaining = describe("custody_remaining_seconds", "Time until the certificates made offline leave clients without.", byService)
	descRenewBy   = describe("custody_renew_by_time_seconds", "When the first period without a certificate begins to be published.", byService)
	descShard     = describe("shard_state", "1 for the state that the shard is in.", byShard, "state")
	descCustomers = describe("shard_customers", "Customers by what they are to be.", byShard, "state")
	descPublished = describe("shard_services", "Active customers by how their addresses are published.", byShard, "state")
	descNeedy     = describe("shard_customers_in_need", "Customers that need attention.", byShard)
	descShardWarn = describe("shard_warnings", "Warnings about the shard as a whole.", byShard)
	descSpares    = describe("shard_spare_keys", "Keys for new customers that the backends know.", byShard)
	descPending   = describe("shard_pending_keys", "Keys that the backends know after their next restart.", byShard)
	descLines     = describe("shard_addresses", "Addresses that the backends know by then.", byShard)
	descMissing   = describe("shard_unconfirmed_uploads", "HSDirs that clients ask, and that have not confirmed the last version.", byShard)
	descOldest    = describe("shard_oldest_descriptor_time_seconds", "When the oldest of the customers' descriptors was made that clients fetch now.", byShard)
	descShardEnd  = describe("shard_certificate_expiry_time_seconds", "When the first certificate ends of a customer's descriptor that clients fetch now.", byShard)
	descShardBy   = describe("shard_custody_renew_by_time_seconds", "When the first customer's first period without a certificate begins to be published.", byShard)
	descMembers   = describe("cluster_members", "Live managers of the cluster.")
	descJoined    = describe("cluster_joined", "Whether the other managers see this one alive.")
	descOwning    = describe("cluster_services", "Services of the configuration by who publishes them.", "state")
	descTaken     = describe("cluster_takeovers_total", "Services that this manager took, by why.", "why")
	descGiven     = describe("cluster_given_total", "Services that this manager gave up.")
	descFenced    = describe("cluster_fenced_total", "Services that another manager took while this one published them.")
	descSwaps     = describe("cluster_swaps_total", "Changes of records in the store, by what came of them.", "result")
	descSwap      = describe("cluster_swap_seconds", "How long transactions of the store took.")
	descLease     = describe("cluster_lease_remaining_seconds", "Time until the others take this manager for dead, without another sign of life.")
	descReserved  = describe("cluster_reservation_seconds", "How long this manager can go on without the store: the least of all services.")
	descWatchAge  = describe("cluster_watch_age_seconds", "How old what this manager has of the store may be.")
	descHeld      = describe("cluster_held_uploads_total", "Uploads that were not launched, as the reservation had ended.")
	descStale     = describe("cluster_stale_uploads_dropped_total", "Uploads that waited, and were dropped as another manager owns the service.")
	descStoreSize = describe("cluster_store_bytes", "Size of the store's file, as it says itself.")
	descAlarms    = describe("cluster_store_alarms", "Alarms that the store raised.")
	descOldKey    = describe("cluster_old_key_records", "Records that another cluster key than the first sealed.")
	descUnread    = describe("cluster_damaged_records", "Records that cannot be opened.")
	descWarned    = describe("cluster_warnings", "Warnings about the cluster.")
	descWatched   = describe("standby_services", "Public addresses that are watched, by whether this machine publishes them.", "state")
	descWatchedAt = describe("standby_last_read_time_seconds", "When HSDirs were last asked, of the address for which that is longest ago.")
	descHeard     = describe("standby_heartbeat", "Whether the active machine says that it can publish.")
	descAlarmed   = describe("standby_alarms", "Public addresses that are watched and need attention.")
	descServed    = describe("customer_served", "Whether clients get the customer's descriptor; only if asked for.", byShard, "customer")
	descMade      = describe("customer_descriptor_time_seconds", "When the version was made that clients fetch now; only if asked for.", byShard, "customer")
)

// The states that a service and an instance can be in.
var (
	serviceStates   = []State{StateOK, StateDegraded, StateStarting, StateFailed, StateElsewhere}
	adminStates     = []health.Admin{health.Ready, health.Drain, health.Maint}
	instanceStates  = []State{StateOK, StateStarting, StateSilent, StateUnknown, StateUnreachable, StateInvalid, StateDown}
	operatingStates = []health.Operating{health.Unchecked, health.Up, health.GoingDown, health.Down, health.GoingUp}
	allHolds        = []Holds{HoldsPublished, HoldsOlder, HoldsOther, HoldsNone, HoldsInvalid}
)

// metricsHandler serves snapshots as Prometheus text, and the customers of an operator if
// the query asks for them.
func metricsHandler(snapshot func() Snapshot, operator Operator) http.Handler {
	handler := func(c collector) http.Handler {
		registry := prometheus.NewRegistry()
		registry.MustRegister(c)
		return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	}
	usual := handler(collector{snapshot: snapshot})
	if operator == nil {
		return usual
	}
	whole := handler(collector{snapshot, operator.EachCustomer})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked, err := strconv.ParseBool(r.URL.Query().Get("customers")); err == nil && asked {
			whole.ServeHTTP(w, r)
			return
		}
		usual.ServeHTTP(w, r)
	})
}

// collector makes metrics of a snapshot taken when they are asked for.
type collector struct {
	snapshot  func() Snapshot
	customers func(do func(Published)) // nil: there are none for single customers
}

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.snapshot()
	m := meter{ch}
	m.daemon(s)
	addresses := make([]string, len(s.Services))
	for n, service := range s.Services {
		addresses[n] = service.Address
	}
	names := labels(addresses, func(string) bool { return s.FullAddresses })
	for n, service := range s.Services {
		m.service(names[n], service)
	}
	for _, shard := range s.Shards {
		m.shard(shard)
	}
	if s.Cluster != nil {
		m.cluster(s.Now, *s.Cluster)
	}
	if c.customers != nil {
		m.customers(c.customers, s.FullAddresses)
	}
}

// meter sends metrics.
type meter struct{ ch chan<- prometheus.Metric }

func (m meter) gauge(d *prometheus.Desc, value float64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (m meter) count(d *prometheus.Desc, value uint64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

// moment sends a time, unless there was none.
func (m meter) moment(d *prometheus.Desc, t time.Time, labels ...string) {
	if !t.IsZero() {
		m.gauge(d, float64(t.UnixMilli())/1000, labels...)
	}
}

// daemon sends what is about the daemon as a whole.
func (m meter) daemon(s Snapshot) {
	m.gauge(descBuild, 1, s.Version)
	m.moment(descStart, s.Started)
	m.gauge(descWarnings, float64(len(s.Warnings)))
	m.moment(descLoaded, s.Loaded)
	if n := len(s.Reloads); n > 0 {
		m.gauge(descReload, truth(s.Refused() == nil))
		m.moment(descReloadAt, s.Reloads[n-1].At)
	}
	for _, t := range s.Tors {
		m.tor(t)
	}
	if s.Consensus.Known {
		m.gauge(descConsensus, s.Now.Sub(s.Consensus.ValidAfter).Seconds())
		m.gauge(descHSDirs, float64(s.Consensus.HSDirs))
	}
	for kind, n := range s.Events {
		m.count(descEvents, n, kind)
	}
}

func (m meter) tor(t Tor) {
	m.gauge(descConnected, truth(t.Connected), t.Name)
	m.gauge(descServing, truth(t.Serving), t.Name)
	if t.Own {
		m.count(descRestarts, uint64(t.Restarts), t.Name)
	}
	m.gauge(descUploading, float64(t.Uploads.Pending), t.Name)
	m.count(descUploads, t.Uploads.Confirmed, t.Name, "confirmed")
	m.count(descUploads, t.Uploads.Rejected, t.Name, "rejected")
	m.count(descUploads, t.Uploads.Failed, t.Name, "failed")
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m meter) service(name string, s Service) {
	for _, state := range serviceStates {
		m.gauge(descState, truth(s.State == state), name, string(state))
	}
	m.gauge(descPanic, truth(s.Panic), name)
	m.gauge(descTrouble, float64(len(s.Warnings)), name)
	counts := map[State]int{}
	for _, i := range s.Instances {
		counts[i.State]++
	}
	for _, state := range instanceStates {
		m.gauge(descInstances, float64(counts[state]), name, string(state))
	}
	for _, i := range s.Instances {
		m.instance(i, name, "")
	}
	m.gauge(descClients, float64(s.Clients), name)
	m.count(descRounds, s.Rounds, name)
	m.moment(descRoundAt, s.LastRound, name)
	m.moment(descVisited, s.Visited, name)
	for _, d := range s.Descriptors {
		m.gauge(descPoints, float64(d.Points), name, d.Which)
		m.gauge(descSlots, float64(len(d.Slots)), name, d.Which)
		m.gauge(descConfirmed, float64(d.Confirmed), name, d.Which)
		if d.Current {
			held := map[Holds]int{}
			for _, slot := range d.Slots {
				held[slot.Holds]++
			}
			for _, holds := range allHolds {
				m.gauge(descReadBack, float64(held[holds]), name, d.Which, string(holds))
			}
		}
	}
	m.gauge(descCustody, 1, name, s.Custody.Form, s.Custody.Signing)
	m.moment(descExpiry, s.Custody.CertifiedUntil, name)
	if a := s.Custody.Ahead; a != nil {
		m.gauge(descPeriods, float64(a.Periods), name)
		m.gauge(descRemaining, a.Remaining, name)
		m.moment(descRenewBy, a.RenewBy, name)
	}
}

// shard sends a shard's metrics, and those of its backends.
func (m meter) shard(s Shard) {
	c := s.Customers
	for _, state := range serviceStates {
		m.gauge(descShard, truth(s.State == state), s.Name, string(state))
		m.gauge(descPublished, float64(c.In(state)), s.Name, string(state))
	}
	m.gauge(descCustomers, float64(c.Active), s.Name, "active")
	m.gauge(descCustomers, float64(c.Suspended), s.Name, "suspended")
	m.gauge(descCustomers, float64(c.Removed), s.Name, "removed")
	m.gauge(descNeedy, float64(s.Needy), s.Name)
	m.gauge(descShardWarn, float64(len(s.Warnings)), s.Name)
	m.gauge(descSpares, float64(s.Spares), s.Name)
	m.gauge(descPending, float64(s.Pending), s.Name)
	m.gauge(descLines, float64(s.Lines), s.Name)
	m.gauge(descMissing, float64(s.Unconfirmed), s.Name)
	m.moment(descOldest, s.Oldest, s.Name)
	m.moment(descShardEnd, s.Custody.CertifiedUntil, s.Name)
	if s.Custody.Ahead != nil {
		m.moment(descShardBy, s.Custody.RenewBy, s.Name)
	}
	for _, i := range s.Instances {
		m.instance(i, "", s.Name)
	}
}

// cluster sends what is about the cluster.
func (m meter) cluster(now time.Time, c Cluster) {
	if c.Standby != nil {
		m.standby(*c.Standby)
		return
	}
	m.gauge(descMembers, float64(len(c.Members)))
	m.gauge(descJoined, truth(c.Joined))
	for owning, n := range map[Owning]int{
		OwningHere: c.Owned - c.Holding, OwningHolding: c.Holding, OwningElsewhere: c.Elsewhere, OwningTaking: c.Taking(), OwningOrphan: c.Orphaned,
	} {
		m.gauge(descOwning, float64(n), string(owning))
	}
	n := c.Counts
	m.count(descTaken, n.Taken.Dead, "dead")
	m.count(descTaken, n.Taken.Free, "free")
	m.count(descTaken, n.Taken.Restart, "restart")
	m.count(descGiven, n.Given)
	m.count(descFenced, n.Fenced)
	m.count(descSwaps, n.Swaps.OK, "ok")
	m.count(descSwaps, n.Swaps.Fenced, "fenced")
	m.count(descSwaps, n.Swaps.Unknown, "unknown")
	m.count(descSwaps, n.Swaps.Error, "error")
	m.ch <- prometheus.MustNewConstSummary(descSwap, n.Transactions, n.Seconds, nil)
	m.gauge(descLease, c.Lease)
	if !c.Reserved.IsZero() {
		m.gauge(descReserved, max(c.Reserved.Sub(now), 0).Seconds())
	}
	m.gauge(descWatchAge, c.Store.Age)
	m.count(descHeld, n.Held)
	m.count(descStale, n.Stale)
	if c.Store.Bytes > 0 {
		m.gauge(descStoreSize, float64(c.Store.Bytes))
	}
	m.gauge(descAlarms, float64(len(c.Store.Alarms)))
	m.gauge(descOldKey, float64(c.Store.OldKey))
	m.gauge(descUnread, float64(c.Store.Damaged))
	m.gauge(descWarned, float64(len(c.Warnings)))
}

// standby sends what is about watched addresses.
func (m meter) standby(s Standby) {
	taken, alarmed, oldest := s.Count()
	m.gauge(descWatched, float64(taken), "published")
	m.gauge(descWatched, float64(len(s.Watched)-taken), "watched")
	m.moment(descWatchedAt, oldest)
	m.gauge(descAlarmed, float64(alarmed))
	if s.Heard != nil {
		m.gauge(descHeard, truth(*s.Heard))
	}
}

// customers sends two metrics of each customer.
func (m meter) customers(each func(do func(Published)), full bool) {
	var list []Published
	each(func(p Published) { list = append(list, p) })
	names := make([]string, len(list))
	for n, p := range list {
		names[n] = p.Name
	}
	named := func(name string) bool { return full || len(name) != addressLabel } // else it is called as its address
	for n, name := range labels(names, named) {
		p := list[n]
		m.gauge(descServed, truth(p.State == StateOK || p.State == StateDegraded), p.Shard, name)
		m.moment(descMade, p.Made, p.Shard, name)
	}
}

// instance sends what is about a backend of a service or of a shard; the other is empty.
func (m meter) instance(i Instance, service, shard string) {
	for _, state := range instanceStates {
		m.gauge(descBackend, truth(i.State == state), service, shard, i.Name, string(state))
	}
	m.gauge(descOffered, float64(i.IntroductionPoints), service, shard, i.Name)
	m.gauge(descUsed, float64(i.Published), service, shard, i.Name)
	m.gauge(descShare, i.Share, service, shard, i.Name)
	for _, state := range adminStates {
		m.gauge(descAdmin, truth(i.Admin == string(state)), service, shard, i.Name, string(state))
	}
	if c := i.Check; c != nil {
		for _, state := range operatingStates {
			m.gauge(descCheck, truth(c.Operating == string(state)), service, shard, i.Name, string(state))
		}
		m.count(descChecks, c.Passed, service, shard, i.Name, "passed")
		m.count(descChecks, c.Failed, service, shard, i.Name, "failed")
		m.gauge(descTook, c.Seconds, service, shard, i.Name)
		m.moment(descChecked, c.At, service, shard, i.Name)
	}
	m.gauge(descWeight, i.Weight, service, shard, i.Name)
	if i.Load != nil {
		m.gauge(descLoad, i.Load.Value, service, shard, i.Name)
	}
	m.gauge(descBroken, truth(i.Path != ""), service, shard, i.Name)
	m.moment(descRenewed, i.Renewed, service, shard, i.Name)
	m.moment(descFetched, i.LastFetch, service, shard, i.Name)
}

// shortLabel is how many characters of an address name a service, unless two services begin
// alike; addressLabel is how many it has without ".onion".
const (
	shortLabel   = 6
	addressLabel = 56
)

// labels returns labels for names: as much as identifies each, since metrics travel as logs
// do, except of those that stay whole.
func labels(names []string, whole func(name string) bool) []string {
	longest := 0
	for _, name := range names {
		longest = max(longest, len(name))
	}
	for length := shortLabel; length < longest; length++ {
		short, seen := make([]string, len(names)), make(map[string]bool, len(names))
		for n, name := range names {
			if short[n] = name; !whole(name) {
				short[n] = name[:min(length, len(name))]
			}
			seen[short[n]] = true
		}
		if len(seen) == len(names) {
			return short
		}
	}
	return names
}
