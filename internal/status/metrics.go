package status

import (
	"net/http"
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
	byBackend = "backend"
	byTor     = "tor"
)

// The metrics. Labels: service is the public address, shortened; backend is an
// instance's name; tor is one of balancer's tors; state and form are the words of
// the status.
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
	descConsensus = describe("consensus_age_seconds", "Time since the consensus in use became valid.")
	descHSDirs    = describe("consensus_hsdirs", "HSDirs in the consensus.")
	descEvents    = describe("events_total", "What happened since the start, by kind.", "kind")
	descState     = describe("service_state", "1 for the state that the service is in.", byService, "state")
	descTrouble   = describe("service_warnings", "Warnings about the service.", byService)
	descInstances = describe("service_instances", "Backends by state.", byService, "state")
	descBackend   = describe("backend_state", "1 for the state that the backend is in.", byService, byBackend, "state")
	descOffered   = describe("backend_introduction_points", "Introduction points that could be used.", byService, byBackend)
	descUsed      = describe("backend_published_points", "Introduction points of the backend in the descriptor.", byService, byBackend)
	descShare     = describe("backend_expected_share_ratio", "Its expected share of the visitors, 0 to 1.", byService, byBackend)
	descCheck     = describe("backend_check", "1 for the operating state that the backend's checks found.", byService, byBackend, "state")
	descChecks    = describe("backend_checks_total", "Checks of the backend by result.", byService, byBackend, "result")
	descTook      = describe("backend_check_duration_seconds", "How long the last check took.", byService, byBackend)
	descChecked   = describe("backend_last_check_time_seconds", "When the last check ended.", byService, byBackend)
	descPanic     = describe("service_panic", "Whether backends stay in use against what checks say.", byService)
	descAdmin     = describe("backend_admin", "1 for the administrative state that the backend is in.", byService, byBackend, "state")
	descWeight    = describe("backend_weight", "The weight in force.", byService, byBackend)
	descLoad      = describe("backend_load", "Its load as told, while that counts.", byService, byBackend)
	descRenewed   = describe("backend_renewed_time_seconds", "When it last published, at the latest.", byService, byBackend)
	descFetched   = describe("backend_last_fetch_time_seconds", "When its descriptor was last asked for.", byService, byBackend)
	descClients   = describe("service_authorized_clients", "Clients that alone can read the descriptor; 0: everybody can.", byService)
	descBroken    = describe("backend_path_broken", "Whether visitors of the public address do not reach the backend, though it answers at its own.", byService, byBackend)
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
)

// The states that a service and an instance can be in.
var (
	serviceStates   = []State{StateOK, StateDegraded, StateStarting, StateFailed}
	adminStates     = []health.Admin{health.Ready, health.Drain, health.Maint}
	instanceStates  = []State{StateOK, StateStarting, StateSilent, StateUnknown, StateUnreachable, StateInvalid, StateDown}
	operatingStates = []health.Operating{health.Unchecked, health.Up, health.GoingDown, health.Down, health.GoingUp}
	allHolds        = []Holds{HoldsPublished, HoldsOlder, HoldsOther, HoldsNone, HoldsInvalid}
)

// metricsHandler serves snapshots as Prometheus text.
func metricsHandler(snapshot func() Snapshot) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector(snapshot))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// collector makes metrics of a snapshot taken when they are asked for.
type collector func() Snapshot

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c()
	m := meter{ch}
	m.gauge(descBuild, 1, s.Version)
	m.moment(descStart, s.Started)
	m.gauge(descWarnings, float64(len(s.Warnings)))
	m.moment(descLoaded, s.Loaded)
	if n := len(s.Reloads); n > 0 {
		m.gauge(descReload, truth(s.Refused() == nil))
		m.moment(descReloadAt, s.Reloads[n-1].At)
	}
	for _, t := range s.Tors {
		m.gauge(descConnected, truth(t.Connected), t.Name)
		m.gauge(descServing, truth(t.Serving), t.Name)
		if t.Own {
			m.count(descRestarts, uint64(t.Restarts), t.Name)
		}
	}
	if s.Consensus.Known {
		m.gauge(descConsensus, s.Now.Sub(s.Consensus.ValidAfter).Seconds())
		m.gauge(descHSDirs, float64(s.Consensus.HSDirs))
	}
	for kind, n := range s.Events {
		m.count(descEvents, n, kind)
	}
	names := labels(s)
	for i, service := range s.Services {
		m.service(names[i], service)
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
		m.instance(name, i)
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

func (m meter) instance(service string, i Instance) {
	for _, state := range instanceStates {
		m.gauge(descBackend, truth(i.State == state), service, i.Name, string(state))
	}
	m.gauge(descOffered, float64(i.IntroductionPoints), service, i.Name)
	m.gauge(descUsed, float64(i.Published), service, i.Name)
	m.gauge(descShare, i.Share, service, i.Name)
	for _, state := range adminStates {
		m.gauge(descAdmin, truth(i.Admin == string(state)), service, i.Name, string(state))
	}
	if c := i.Check; c != nil {
		for _, state := range operatingStates {
			m.gauge(descCheck, truth(c.Operating == string(state)), service, i.Name, string(state))
		}
		m.count(descChecks, c.Passed, service, i.Name, "passed")
		m.count(descChecks, c.Failed, service, i.Name, "failed")
		m.gauge(descTook, c.Seconds, service, i.Name)
		m.moment(descChecked, c.At, service, i.Name)
	}
	m.gauge(descWeight, i.Weight, service, i.Name)
	if i.Load != nil {
		m.gauge(descLoad, i.Load.Value, service, i.Name)
	}
	m.gauge(descBroken, truth(i.Path != ""), service, i.Name)
	m.moment(descRenewed, i.Renewed, service, i.Name)
	m.moment(descFetched, i.LastFetch, service, i.Name)
}

// shortLabel is how many characters of an address name a service, unless two
// services begin alike.
const shortLabel = 6

// labels returns the services' labels: as much of the address as identifies
// them, since metrics travel as logs do, or all of it if the snapshot says so.
func labels(s Snapshot) []string {
	longest := 0
	for _, service := range s.Services {
		longest = max(longest, len(service.Address))
	}
	length := shortLabel
	if s.FullAddresses {
		length = longest
	}
	for names := make([]string, len(s.Services)); ; length++ {
		seen := make(map[string]bool)
		for i, service := range s.Services {
			names[i] = service.Address[:min(length, len(service.Address))]
			seen[names[i]] = true
		}
		if len(seen) == len(names) || length >= longest {
			return names
		}
	}
}
