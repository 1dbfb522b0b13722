package selection

import "fmt"

func dbg(s Strategy, r Request) string {
	text := ""
	for range 4 {
		p := newPlan(s, r)
		held := newLayout(p.quota.bounds, len(p.parties))
		for n, k := range p.asked {
			for _, point := range p.held[k] {
				held.put(n, p.points[point].party, 1)
			}
		}
		mended := p.result(p.mend(held), false)
		all := p.result(p.anew(held), true)
		text += fmt.Sprintf("refresh %v fill %v sampled %v limit %d each %d quota %v off %.3f held %v = %d, mend %v total %d off %.3f lopsided %v, anew total %d off %.3f\n", r.Refresh, p.fill, p.quota.sampled(), p.quota.limit, p.quota.each, p.quota.count, p.quota.off, held.cells, held.total(), p.mend(held).cells, mended.got.total(), mended.off, p.lopsided(mended.got), all.got.total(), all.off)
		a := newPlan(s, r).assign()
		r.Slots, r.Refresh = holding(a), false
	}
	return text
}
