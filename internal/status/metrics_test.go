package status

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

var testNow = time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)

// testSnapshot has something in it for every metric.
func testSnapshot() Snapshot {
	return Snapshot{
		Version: "v1", Now: testNow, Started: testNow.Add(-time.Hour), Warnings: []string{"a"}, Loaded: testNow.Add(-time.Minute),
		Reloads:   []Event{{At: testNow.Add(-time.Minute), Error: "no"}, {At: testNow}},
		Events:    map[string]uint64{"published": 3},
		Tors:      []Tor{{Name: "tor-1", Own: true, Connected: true, Serving: true, Restarts: 2, Uploads: Uploads{Pending: 11, Confirmed: 40}}, {Name: "tor-2"}},
		Consensus: Consensus{Known: true, ValidAfter: testNow.Add(-30 * time.Minute), HSDirs: 4000},
		Services: []Service{
			{
				Address: "a4mnoi57.onion", State: StateOK, Rounds: 12, LastRound: testNow, Visited: testNow.Add(-time.Hour),
				Custody: Custody{Form: "sealed", Signing: "token", CertifiedUntil: testNow.Add(time.Hour)},
				Instances: []Instance{
					{Name: "web1", Address: "zkorpcle.onion", State: StateOK, IntroductionPoints: 3, Published: 2, Share: 0.25, Admin: "ready", Weight: 3, Load: &Load{Value: 0.75},
						Check:   &Check{Kind: "http", Operating: "going down", At: testNow, Seconds: 0.5, Passed: 7, Failed: 2},
						Renewed: testNow.Add(-time.Hour), LastFetch: testNow.Add(-time.Minute)},
					{Name: "web2", Address: "cf5mytdf.onion", State: StateOK, Admin: "drain"},
					{Name: "web3", Address: "crxvtejn.onion", State: StateSilent, Path: "why"},
				},
				Descriptors: []Descriptor{{Which: "first", Current: true, Points: 6, Confirmed: 7, Slots: append(make([]Slot, 7), Slot{Holds: HoldsOlder})}},
			},
			{
				Address: "a4mnoi9x.onion", State: StateFailed, Warnings: []string{"b", "c"},
				Custody: Custody{Form: "offline", Signing: "disk", Ahead: &Ahead{Periods: 3, Horizon: 60, RenewBy: testNow, Remaining: 3600}},
			},
		},
		Shards: []Shard{{
			Name: "s1", State: StateDegraded, Customers: Customers{Active: 240, Suspended: 3, Removed: 2, OK: 230, Degraded: 4, Starting: 5, Failed: 1},
			Spares: 25, Pending: 7, Lines: 277, Needy: 6, Unconfirmed: 9, Oldest: testNow.Add(-time.Hour), Warnings: []string{"d"},
			Custody:   SharedCustody{CertifiedUntil: testNow.Add(time.Hour), Ahead: &Ahead{RenewBy: testNow}},
			Instances: []Instance{{Name: "s1a", State: StateOK, Published: 3, Admin: "ready"}},
		}},
	}
}

// testCluster is that of a manager which shares its services.
func testCluster() *Cluster {
	return &Cluster{
		Mode: "etcd", Name: "main", Manager: "m1", Joined: true, Lease: 7.5, Reserved: testNow.Add(5 * time.Hour),
		Store:   ClusterStore{Age: 0.5, Latency: 0.012, Bytes: 4 << 20, Records: 21, OldKey: 3, Damaged: 1, Alarms: []string{"NOSPACE"}},
		Members: []Member{{Name: "m1", Owned: 4}, {Name: "m2"}, {Name: "m3"}}, Services: 10, Owned: 4, Holding: 1, Elsewhere: 3, Orphaned: 2, Warnings: []string{"a"},
		Counts: ClusterCounts{Taken: Taken{5, 6, 7}, Given: 8, Fenced: 9, Swaps: Swaps{10, 11, 12, 13}, Transactions: 4, Seconds: 0.5, Held: 14, Stale: 15},
	}
}

// testCustomers has two customers that are called as their addresses are, and one that is
// not.
type testCustomers struct{ Operator }

func (testCustomers) EachCustomer(do func(Published)) {
	do(Published{"s1", "a4mnoi" + strings.Repeat("5", 50), StateOK, testNow})
	do(Published{"s1", "a4mnoi" + strings.Repeat("6", 50), StateStarting, time.Time{}})
	do(Published{"s1", "kalypso-books", StateDegraded, testNow})
}

// metrics returns what is answered for s, with customers if query asks for them.
func metrics(t *testing.T, s Snapshot, query string) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	metricsHandler(func() Snapshot { return s }, testCustomers{}).ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics"+query, nil))
	if recorder.Code != 200 {
		t.Fatalf("%d: %s", recorder.Code, recorder.Body)
	}
	return recorder.Body.String()
}

func TestMetrics(t *testing.T) {
	got := metrics(t, testSnapshot(), "")
	for _, line := range []string{
		`balancer_build_info{version="v1"} 1`,
		`balancer_warnings 1`,
		`balancer_last_reload_successful 1`,
		`balancer_tor_connected{tor="tor-1"} 1`,
		`balancer_tor_connected{tor="tor-2"} 0`,
		`balancer_tor_serving{tor="tor-2"} 0`,
		`balancer_tor_restarts_total{tor="tor-1"} 2`,
		`balancer_consensus_age_seconds 1800`,
		`balancer_consensus_hsdirs 4000`,
		`balancer_service_state{service="a4mnoi5",state="ok"} 1`,
		`balancer_service_state{service="a4mnoi9",state="ok"} 0`,
		`balancer_service_state{service="a4mnoi9",state="failed"} 1`,
		`balancer_service_warnings{service="a4mnoi9"} 2`,
		`balancer_service_instances{service="a4mnoi5",state="ok"} 2`,
		`balancer_service_instances{service="a4mnoi5",state="silent"} 1`,
		`balancer_service_instances{service="a4mnoi5",state="invalid"} 0`,
		`balancer_service_instances{service="a4mnoi9",state="ok"} 0`,
		`balancer_backend_state{backend="web1",service="a4mnoi5",shard="",state="ok"} 1`,
		`balancer_backend_state{backend="web3",service="a4mnoi5",shard="",state="ok"} 0`,
		`balancer_backend_state{backend="web3",service="a4mnoi5",shard="",state="silent"} 1`,
		`balancer_backend_introduction_points{backend="web1",service="a4mnoi5",shard=""} 3`,
		`balancer_backend_published_points{backend="web1",service="a4mnoi5",shard=""} 2`,
		`balancer_backend_published_points{backend="web2",service="a4mnoi5",shard=""} 0`,
		`balancer_backend_expected_share_ratio{backend="web1",service="a4mnoi5",shard=""} 0.25`,
		`balancer_backend_admin{backend="web1",service="a4mnoi5",shard="",state="ready"} 1`,
		`balancer_backend_admin{backend="web1",service="a4mnoi5",shard="",state="drain"} 0`,
		`balancer_backend_admin{backend="web2",service="a4mnoi5",shard="",state="ready"} 0`,
		`balancer_backend_admin{backend="web2",service="a4mnoi5",shard="",state="drain"} 1`,
		`balancer_service_panic{service="a4mnoi5"} 0`,
		`balancer_backend_check{backend="web1",service="a4mnoi5",shard="",state="going down"} 1`,
		`balancer_backend_check{backend="web1",service="a4mnoi5",shard="",state="up"} 0`,
		`balancer_backend_checks_total{backend="web1",result="passed",service="a4mnoi5",shard=""} 7`,
		`balancer_backend_checks_total{backend="web1",result="failed",service="a4mnoi5",shard=""} 2`,
		`balancer_backend_check_duration_seconds{backend="web1",service="a4mnoi5",shard=""} 0.5`,
		`balancer_backend_last_check_time_seconds{backend="web1",service="a4mnoi5",shard=""} 1.795167e+09`,
		`balancer_backend_weight{backend="web1",service="a4mnoi5",shard=""} 3`,
		`balancer_backend_load{backend="web1",service="a4mnoi5",shard=""} 0.75`,
		`balancer_backend_renewed_time_seconds{backend="web1",service="a4mnoi5",shard=""} 1.7951634e+09`,
		`balancer_backend_last_fetch_time_seconds{backend="web1",service="a4mnoi5",shard=""} 1.79516694e+09`,
		`balancer_backend_path_broken{backend="web1",service="a4mnoi5",shard=""} 0`,
		`balancer_backend_path_broken{backend="web3",service="a4mnoi5",shard=""} 1`,
		`balancer_service_visited_time_seconds{service="a4mnoi5"} 1.7951634e+09`,
		`balancer_service_rounds_total{service="a4mnoi5"} 12`,
		`balancer_descriptor_confirmed_slots{descriptor="first",service="a4mnoi5"} 7`,
		`balancer_descriptor_slots{descriptor="first",service="a4mnoi5"} 8`,
		`balancer_descriptor_read_back_slots{descriptor="first",holds="older",service="a4mnoi5"} 1`,
		`balancer_descriptor_read_back_slots{descriptor="first",holds="published",service="a4mnoi5"} 0`,
		`balancer_custody_info{form="sealed",service="a4mnoi5",signing="token"} 1`,
		`balancer_certificate_expiry_time_seconds{service="a4mnoi5"} 1.7951706e+09`,
		`balancer_custody_remaining_seconds{service="a4mnoi9"} 3600`,
		`balancer_custody_periods_left{service="a4mnoi9"} 3`,
		`balancer_tor_uploads_pending{tor="tor-1"} 11`,
		`balancer_tor_uploads_total{result="confirmed",tor="tor-1"} 40`,
		`balancer_tor_uploads_total{result="failed",tor="tor-2"} 0`,
		`balancer_shard_state{shard="s1",state="degraded"} 1`,
		`balancer_shard_state{shard="s1",state="ok"} 0`,
		`balancer_shard_customers{shard="s1",state="active"} 240`,
		`balancer_shard_customers{shard="s1",state="suspended"} 3`,
		`balancer_shard_services{shard="s1",state="starting"} 5`,
		`balancer_shard_customers_in_need{shard="s1"} 6`,
		`balancer_shard_spare_keys{shard="s1"} 25`,
		`balancer_shard_addresses{shard="s1"} 277`,
		`balancer_shard_oldest_descriptor_time_seconds{shard="s1"} 1.7951634e+09`,
		`balancer_backend_published_points{backend="s1a",service="",shard="s1"} 3`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	if strings.Contains(got, "onion") || strings.Contains(got, "customer=") {
		t.Errorf("an address whole, or a customer:\n%s", got)
	}
	got = metrics(t, testSnapshot(), "?customers=1")
	for _, line := range []string{
		`balancer_customer_served{customer="a4mnoi5",shard="s1"} 1`,
		`balancer_customer_served{customer="a4mnoi6",shard="s1"} 0`,
		`balancer_customer_served{customer="kalypso-books",shard="s1"} 1`,
		`balancer_customer_descriptor_time_seconds{customer="a4mnoi5",shard="s1"} 1.795167e+09`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	got = metrics(t, Snapshot{Now: testNow, Cluster: testCluster()}, "")
	for _, line := range []string{
		`balancer_cluster_members 3`, `balancer_cluster_joined 1`, `balancer_cluster_services{state="owned"} 3`, `balancer_cluster_services{state="holding"} 1`,
		`balancer_cluster_services{state="elsewhere"} 3`, `balancer_cluster_services{state="taking"} 1`, `balancer_cluster_services{state="orphan"} 2`,
		`balancer_cluster_takeovers_total{why="dead"} 5`, `balancer_cluster_takeovers_total{why="restart"} 7`, `balancer_cluster_given_total 8`, `balancer_cluster_fenced_total 9`,
		`balancer_cluster_swaps_total{result="fenced"} 11`, `balancer_cluster_swaps_total{result="error"} 13`, `balancer_cluster_swap_seconds_sum 0.5`, `balancer_cluster_swap_seconds_count 4`,
		`balancer_cluster_lease_remaining_seconds 7.5`, `balancer_cluster_reservation_seconds 18000`, `balancer_cluster_watch_age_seconds 0.5`,
		`balancer_cluster_held_uploads_total 14`, `balancer_cluster_stale_uploads_dropped_total 15`, `balancer_cluster_store_bytes 4.194304e+06`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	got = metrics(t, Snapshot{Now: testNow, Cluster: testStandby()}, "")
	for _, line := range []string{
		`balancer_standby_services{state="published"} 1`, `balancer_standby_services{state="watched"} 2`, `balancer_standby_alarms 1`, `balancer_standby_heartbeat 0`, `balancer_standby_last_read_time_seconds 1.79516688e+09`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") || strings.Contains(got, "balancer_cluster_") {
			t.Errorf("no line %q, or more, in\n%s", line, got)
		}
	}
	full := testSnapshot()
	full.FullAddresses = true
	if got := metrics(t, full, ""); !strings.Contains(got, `service="a4mnoi57.onion"`) {
		t.Errorf("no address whole:\n%s", got)
	}
	// A daemon that has only just begun has less to tell, and no error.
	if got := metrics(t, Snapshot{Tors: []Tor{{Name: "tor-1"}}}, ""); !strings.Contains(got, `balancer_tor_connected{tor="tor-1"} 0`) || strings.Contains(got, "service=") {
		t.Errorf("at the start:\n%s", got)
	}
}

func testStandby() *Cluster {
	return &Cluster{Mode: "standby", Name: "two", Standby: &Standby{Role: "standby", Heard: new(bool), Watched: []Watched{
		{Address: "a.onion", Read: testNow.Add(-time.Minute)}, {Address: "b.onion", Read: testNow.Add(-2 * time.Minute), Taken: true}, {Address: "c.onion", Read: testNow, Alarm: "gone"},
	}}}
}

// onlyOnce leaves out the metrics of a text that were there before.
func onlyOnce(text string) string {
	var out strings.Builder
	seen, skip := map[string]bool{}, false
	for line := range strings.Lines(text) {
		if name, is := strings.CutPrefix(line, "# HELP "); is {
			name, _, _ = strings.Cut(name, " ")
			skip = seen[name]
			seen[name] = true
		}
		if !skip {
			out.WriteString(line)
		}
	}
	return out.String()
}

// TestMetricNames: names are ours, say their units, and each metric that is
// described is made.
func TestMetricNames(t *testing.T) {
	snapshot := testSnapshot()
	snapshot.Cluster = testCluster()
	text := metrics(t, snapshot, "?customers=1") + metrics(t, Snapshot{Now: testNow, Cluster: testStandby()}, "")
	// Either a cluster or a standby, and what is about the daemon twice.
	text = onlyOnce(text)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	name := regexp.MustCompile(`^balancer(_[a-z]+)+$`)
	kinds := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(text, -1) {
		kinds[m[1]] = m[2]
		if !name.MatchString(m[1]) {
			t.Errorf("the name %s", m[1])
		}
		if counts := strings.HasSuffix(m[1], "_total"); counts != (m[2] == "counter") {
			t.Errorf("%s is a %s", m[1], m[2])
		}
		for _, word := range []string{"_age", "_remaining", "_time", "_expiry"} {
			if strings.Contains(m[1], word) && !strings.HasSuffix(m[1], "_seconds") {
				t.Errorf("%s does not say its unit", m[1])
			}
		}
	}
	described := make(chan *prometheus.Desc, len(all))
	collector{}.Describe(described)
	close(described)
	for d := range described {
		_, rest, _ := strings.Cut(d.String(), `fqName: "`)
		if n, _, _ := strings.Cut(rest, `"`); kinds[n] == "" {
			t.Errorf("%s is described and not made", n)
		}
	}
	if len(kinds) != len(all) {
		t.Errorf("%d metrics made, %d described", len(kinds), len(all))
	}
}
