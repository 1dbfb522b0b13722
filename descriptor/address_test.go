package descriptor

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

type addressFile struct {
	Valid []struct {
		Public  hexBytes `json:"identity_public_key"`
		Address string   `json:"onion_address"`
	} `json:"valid"`
	Checked []addressVerdict `json:"checked_by_tor"`
	More    []addressVerdict `json:"more_invalid"`
}

type addressVerdict struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Expected string `json:"expected"`
}

func TestAddressVectors(t *testing.T) {
	file := loadJSON[addressFile](t, "addresses.json")
	enough(t, "addresses", len(file.Valid), 35)
	for _, v := range file.Valid {
		a, err := ParseAddress(v.Address)
		if err != nil {
			t.Error(err)
			continue
		}
		if a != Address(v.Public.key()) || a.String() != v.Address || a.Label()+".onion" != v.Address {
			t.Errorf("%s: %x, %s", v.Address, a[:], a)
		}
		if !strings.HasPrefix(v.Address, strings.TrimSuffix(a.Short(), "…")) || len(a.Short()) > 10 {
			t.Errorf("%s: short form %s", v.Address, a.Short())
		}
		var again Address
		if text, err := a.MarshalText(); err != nil || again.UnmarshalText(text) != nil || again != a {
			t.Errorf("%s: text %s, %v", v.Address, text, err)
		}
	}
	verdicts := slices.Concat(file.Checked, file.More)
	enough(t, "odd addresses", len(verdicts), 51)
	for _, v := range verdicts {
		_, err := ParseAddress(v.Address)
		if accepted := err == nil; accepted != (v.Expected == "accept" || v.Expected == "reject-or-strip") {
			t.Errorf("%s: %q: error %v, expected %s", v.Name, v.Address, err, v.Expected)
		}
		if err != nil && !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v is no ErrAddress", v.Name, err)
		}
	}
	var a Address
	if err := a.UnmarshalText([]byte("wrong.onion")); !errors.Is(err, ErrAddress) || a != (Address{}) {
		t.Errorf("unmarshalling: %v", err)
	}
}

func TestPeriodVectors(t *testing.T) {
	file := loadJSON[struct {
		Periods []struct {
			Time   int64  `json:"unix_time"`
			Length int64  `json:"period_length_minutes"`
			Offset int64  `json:"rotation_offset_minutes"`
			Number uint64 `json:"time_period_number"`
			Start  int64  `json:"period_start_unix"`
			Next   int64  `json:"next_period_start_unix"`
		} `json:"time_periods"`
	}](t, "timeperiod.json")
	enough(t, "periods", len(file.Periods), 58)
	for _, v := range file.Periods {
		length, offset := time.Duration(v.Length)*time.Minute, time.Duration(v.Offset)*time.Minute
		p := PeriodAt(time.Unix(v.Time, 0), length, offset)
		if p.Number != v.Number || p.Length != length || p.Start(offset).Unix() != v.Start || p.End(offset).Unix() != v.Next {
			t.Errorf("%d: %s, from %v to %v, want %d", v.Time, p, p.Start(offset), p.End(offset), v.Number)
		}
		if p.Next().Previous() != p {
			t.Errorf("%s: the next one's previous is %s", p, p.Next().Previous())
		}
	}
	if p := PeriodAt(time.Unix(0, 0), 0, time.Hour); p != (Period{0, DefaultPeriodLength}) || p.Previous() != p {
		t.Errorf("before the first period: %s", p)
	}
}
