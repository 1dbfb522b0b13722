package health

import "testing"

func TestMatchStatus(t *testing.T) {
	for list, statuses := range map[string]struct{ in, out []int }{
		"":              {[]int{200, 204, 301, 399}, []int{101, 199, 400, 404, 503}},
		"200":           {[]int{200}, []int{201, 199}},
		"2xx":           {[]int{200, 299}, []int{199, 300}},
		"4XX":           {[]int{404}, []int{200}},
		"200-399":       {[]int{200, 302, 399}, []int{400}},
		"200, 204 ,5xx": {[]int{200, 204, 500}, []int{201, 404}},
		"401,403-404":   {[]int{401, 403, 404}, []int{402}},
	} {
		for _, status := range statuses.in {
			if match, err := MatchStatus(list, status); !match || err != nil {
				t.Errorf("%q, %d: %v, %v", list, status, match, err)
			}
		}
		for _, status := range statuses.out {
			if match, err := MatchStatus(list, status); match || err != nil {
				t.Errorf("%q, %d: %v, %v", list, status, match, err)
			}
		}
	}
	for _, list := range []string{"ok", "99", "600", "399-200", "200,", ",", "xx", "20x", "2xx-3xx", "200-", "-200", "+200", "6xx", "0xx"} {
		if _, err := MatchStatus(list, 200); err == nil {
			t.Errorf("%q is taken", list)
		}
	}
}
