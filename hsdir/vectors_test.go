package hsdir

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"onionbalancer/descriptor"
)

func TestTimePeriodVectors(t *testing.T) {
	var v struct {
		Periods []struct {
			Time     int64  `json:"unix_time"`
			Minutes  int    `json:"period_length_minutes"`
			Interval int    `json:"voting_interval_seconds"`
			Number   uint64 `json:"time_period_number"`
			Start    int64  `json:"period_start_unix"`
			Next     int64  `json:"next_period_start_unix"`
		} `json:"time_periods"`
	}
	readVectors(t, "timeperiod.json", &v)
	if len(v.Periods) == 0 {
		t.Fatal("no vectors")
	}
	for _, p := range v.Periods {
		// The testing networks among them have periods of 24 intervals.
		net := randomNetwork(1, 1, time.Unix(p.Time, 0).UTC())
		net.FreshUntil = net.ValidAfter.Add(time.Duration(p.Interval) * time.Second)
		net.ValidUntil = net.FreshUntil.Add(time.Hour)
		onTestNetwork := p.Interval != 3600
		if !onTestNetwork {
			net.Params = []string{fmt.Sprintf("hsdir_interval=%d", p.Minutes)}
		}
		c := net.parse(t, onTestNetwork)
		period := c.CurrentPeriod()
		if period.Number != p.Number || period.Minutes() != uint64(p.Minutes) {
			t.Errorf("at %d: period %v, want %d of %d minutes", p.Time, period, p.Number, p.Minutes)
		}
		if got := period.Start(c.RotationOffset()).Unix(); got != p.Start {
			t.Errorf("at %d: period begins %d, want %d", p.Time, got, p.Start)
		}
		if got := c.NextPeriod().Unix(); got != p.Next {
			t.Errorf("at %d: next period begins %d, want %d", p.Time, got, p.Next)
		}
	}
}

type segmentSide struct {
	Number uint64 `json:"time_period_number"`
	SRV    string `json:"shared_random"`
}

func TestSegmentVectors(t *testing.T) {
	var v struct {
		Segments []struct {
			ValidAfter  string      `json:"valid_after"`
			FreshUntil  string      `json:"fresh_until"`
			Minutes     uint64      `json:"period_length_minutes"`
			RunStart    int64       `json:"srv_run_start_unix"`
			Current     uint64      `json:"current_time_period"`
			Between     bool        `json:"between_time_period_and_srv"`
			Client      segmentSide `json:"client_fetch"`
			First       segmentSide `json:"service_first_descriptor"`
			Second      segmentSide `json:"service_second_descriptor"`
			EpochFirst  int64       `json:"revision_counter_epoch_first"`
			EpochSecond int64       `json:"revision_counter_epoch_second"`
			Rotation    int64       `json:"next_rotation_unix"`
		}
	}
	readVectors(t, "timeperiod.json", &v)
	if len(v.Segments) == 0 {
		t.Fatal("no vectors")
	}
	for _, s := range v.Segments {
		net := randomNetwork(3, 2, parseTestTime(t, s.ValidAfter))
		net.FreshUntil = parseTestTime(t, s.FreshUntil)
		net.ValidUntil = net.FreshUntil.Add(time.Hour)
		c := net.parse(t, net.FreshUntil.Sub(net.ValidAfter) < time.Hour)
		values := map[string][32]byte{"current": *net.Current, "previous": *net.Previous}
		check := func(name string, r *Ring, want segmentSide, epoch int64) {
			if r.Period.Number != want.Number || r.Period.Minutes() != s.Minutes {
				t.Errorf("%s: %s period %v, want %d of %d minutes", s.ValidAfter, name, r.Period, want.Number, s.Minutes)
			}
			if r.SharedRandom != values[want.SRV] || r.Disaster {
				t.Errorf("%s: %s descriptor does not use the %s shared random value", s.ValidAfter, name, want.SRV)
			}
			if epoch != 0 && r.RunStart.Unix() != epoch {
				t.Errorf("%s: %s counts from %d, want %d", s.ValidAfter, name, r.RunStart.Unix(), epoch)
			}
		}
		check("first", mustRing(t, c, FirstRole), s.First, s.EpochFirst)
		check("second", mustRing(t, c, SecondRole), s.Second, s.EpochSecond)
		check("client's", c.Current(), s.Client, 0)
		if c.schedule.between != s.Between || c.CurrentPeriod().Number != s.Current || c.schedule.runStart.Unix() != s.RunStart {
			t.Errorf("%s: between %v period %d run start %d, want %v %d %d", s.ValidAfter, c.schedule.between,
				c.CurrentPeriod().Number, c.schedule.runStart.Unix(), s.Between, s.Current, s.RunStart)
		}
		if got := c.NextSharedRandom().Unix(); got != s.Rotation {
			t.Errorf("%s: next rotation %d, want %d", s.ValidAfter, got, s.Rotation)
		}
	}
}

func parseTestTime(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := parseTime([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func mustRing(t testing.TB, c *Consensus, role Role) *Ring {
	t.Helper()
	r, err := c.Ring(role)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIndexVectors(t *testing.T) {
	var v struct {
		Indexes []struct {
			Kind    string   `json:"kind"`
			Blinded hexBytes `json:"blinded_public_key"`
			Ed25519 hexBytes `json:"ed25519_identity"`
			SRV     hexBytes `json:"shared_random_value"`
			Replica int      `json:"replica"`
			Number  uint64   `json:"time_period_number"`
			Minutes int      `json:"time_period_length_minutes"`
			Index   hexBytes `json:"index"`
		}
		Disaster []struct {
			Number  uint64   `json:"time_period_number"`
			Minutes int      `json:"time_period_length_minutes"`
			SRV     hexBytes `json:"shared_random_value"`
		} `json:"disaster_shared_random"`
	}
	readVectors(t, "hashring.json", &v)
	if len(v.Indexes) == 0 || len(v.Disaster) == 0 {
		t.Fatal("no vectors")
	}
	for i, x := range v.Indexes {
		p := descriptor.Period{Number: x.Number, Length: time.Duration(x.Minutes) * time.Minute}
		var got [32]byte
		if x.Kind == "hs_index" {
			got = hsIndex(x.Blinded.key(), x.Replica, p)
		} else {
			got = hsdirIndex(x.Ed25519.key(), x.SRV.key(), p)
		}
		if !bytes.Equal(got[:], x.Index) {
			t.Errorf("index %d, %s: %x, want %x", i, x.Kind, got, x.Index)
		}
	}
	for _, x := range v.Disaster {
		p := descriptor.Period{Number: x.Number, Length: time.Duration(x.Minutes) * time.Minute}
		if got := disasterValue(p); !bytes.Equal(got[:], x.SRV) {
			t.Errorf("disaster value of %v: %x, want %x", p, got, x.SRV)
		}
	}
}

// flat puts the HSDirs of all replicas in one list, in order.
func flat(replicas [][]ResponsibleHSDir) []ResponsibleHSDir { return slices.Concat(replicas...) }
