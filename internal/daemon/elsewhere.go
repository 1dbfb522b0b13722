package daemon

import (
	"slices"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
)

// countElsewhere adds the customers to a shard's status whose services do not run here, and
// returns those who need attention.
func (h *host) countElsewhere(out *status.Shard) (needy []need) {
	for _, r := range h.elsewhere {
		a := r.Address()
		s := r.Summary()
		custodyOf(&out.Custody, s.Custody)
		if s.Withdrawn {
			out.Customers.Withdrawing++
			continue
		}
		owner := h.d.sharing.owner(a)
		switch {
		case owner == nil || owner.Owning == status.OwningElsewhere:
			out.Customers.Elsewhere++
		case owner.Owning == status.OwningOrphan:
			out.Customers.Failed++
			needy = append(needy, need{a, status.StateFailed, "no manager can certify it"})
		default: // it is taken over
			out.Customers.Starting++
		}
	}
	return needy
}

// countOwners counts the active customers of a shard by who publishes them.
func (h *host) countOwners(out *status.Shard) {
	for _, r := range slices.Concat(h.services, h.elsewhere) {
		owner := h.d.sharing.owner(r.Address())
		if owner == nil {
			return // there is nobody else
		}
		if out.Owners == nil {
			out.Owners = map[string]int{}
		}
		if !r.Summary().Withdrawn {
			out.Owners[owner.Manager]++
		}
	}
}

// leftElsewhere tells how far an instance is on its way out of the descriptors of a service that
// another manager publishes: its record says when no HSDir had points of the instance any more.
func (d *Daemon) leftElsewhere(service, instance descriptor.Address) *status.Drain {
	record, _, err := d.env.Store.Service(service)
	out := &status.Drain{}
	if err != nil {
		return out
	}
	for _, one := range record.Drained {
		if one.Instance == state.Address(instance) {
			out.Left, out.SafeAt = one.At, d.customers.forgotten(one.At)
			out.Safe = !time.Now().Before(out.SafeAt)
		}
	}
	return out
}

// drainElsewhere fills in what leftElsewhere tells about the instances of a service.
func (d *Daemon) drainElsewhere(s *status.Service, service descriptor.Address) {
	for n := range s.Instances {
		i := &s.Instances[n]
		if a, err := descriptor.ParseAddress(i.Address); err == nil && i.Drain != nil {
			i.Drain = d.leftElsewhere(service, a)
		}
	}
}
