package daemon

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/advice"
	"onionbalancer/internal/health"
	"onionbalancer/internal/state"
	"onionbalancer/internal/status"
	"onionbalancer/selection"
)

// member is an instance as a service or a shard has it.
type member struct {
	service descriptor.Address // the zero Address in a shard
	shard   string
	name    string
	address descriptor.Address
}

// of names the service or the shard.
func (m member) of() string {
	if m.shard != "" {
		return "shard " + m.shard
	}
	return m.service.String()
}

// user is a service or a shard that uses an instance, as it is now.
type user struct {
	name      string // in texts
	service   string // the public address; empty for a shard
	shard     string
	strategy  string
	instances []status.Instance
}

// Operate implements status.Operator. Orders are carried out one after the other: two
// at once might take out the last two instances.
func (d *Daemon) Operate(ctx context.Context, o status.Order) (status.Answer, error) {
	d.orders.Lock()
	defer d.orders.Unlock()
	defer d.shards.stale.Store(true)
	if o.Word == "load" {
		return d.takeLoad(o)
	}
	change, out, err := changeOf(o)
	if err != nil {
		return status.Answer{}, err
	}
	address, users, err := d.resolve(o.Instance, o.Service)
	if err != nil {
		return status.Answer{}, err
	}
	var last []string
	for _, u := range users {
		if out && isLast(u.instances, address) {
			last = append(last, u.name)
		}
	}
	if len(last) > 0 && !o.Force {
		return status.Answer{}, refuse(http.StatusConflict, "%s is the last instance of %s in service; --force takes it out all the same", o.Instance, oneOf(last))
	}
	word, err := d.rooms.backends.SetWord(ctx, address, change)
	if err != nil {
		if o.Word == string(health.Ready) {
			d.rooms.backends.Forgive(address) // the checks here need no store for that
		}
		return status.Answer{}, refusedOf(err)
	}
	if _, now, err := d.resolve(address.String(), ""); err == nil { // else they were configured anew meanwhile
		users = now
	}
	answer := answerOf(address, users, word)
	answer.Notes = notes(o, answer, last)
	return answer, nil
}

// maxLoadKept is how long a load counts at most: it says nothing about tomorrow.
const maxLoadKept = 24 * time.Hour

// takeLoad takes down how loaded an instance is.
func (d *Daemon) takeLoad(o status.Order) (status.Answer, error) {
	value, given, err := health.ParseLoad(o.Load)
	if err != nil {
		return status.Answer{}, refuse(http.StatusBadRequest, "%v", err)
	}
	long := time.Duration(o.Seconds * float64(time.Second))
	switch {
	case o.Weight != "" || o.Force:
		return status.Answer{}, refuse(http.StatusBadRequest, "the word \"load\" goes with a load alone")
	case o.Seconds == 0:
		long = health.LoadKept
	case !(o.Seconds > 0 && o.Seconds <= maxLoadKept.Seconds()):
		return status.Answer{}, refuse(http.StatusBadRequest, "a load counts for more than 0 seconds, and for %s at most", maxLoadKept)
	}
	address, users, err := d.resolve(o.Instance, o.Service)
	if err != nil {
		return status.Answer{}, err
	}
	var load health.Load
	if given {
		load = health.Load{Value: value, Until: time.Now().Add(long)}
	}
	d.rooms.backends.SetLoad(address, load)
	if _, now, err := d.resolve(address.String(), ""); err == nil {
		users = now
	}
	answer := answerOf(address, users, d.rooms.backends.Word(address))
	if !given {
		return answer, nil
	}
	for _, u := range answer.Uses {
		if _, told := advice.Program(u.Strategy); !told && u.Strategy != (selection.LeastLoaded{}).Name() {
			answer.Notes = append(answer.Notes, fmt.Sprintf("the strategy %q of %s takes no notice of loads", u.Strategy, u.Name()))
			break
		}
	}
	return answer, nil
}

// InstanceStatus implements status.Operator.
func (d *Daemon) InstanceStatus(instance, service string) (status.Answer, error) {
	address, users, err := d.resolve(instance, service)
	if err != nil {
		return status.Answer{}, err
	}
	return answerOf(address, users, d.rooms.backends.Word(address)), nil
}

// changeOf returns what an order changes of the operator's word, and whether it takes
// an instance out.
func changeOf(o status.Order) (change func(*state.Word), out bool, err error) {
	if o.Load != "" || o.Seconds != 0 {
		return nil, false, refuse(http.StatusBadRequest, "a load goes with the word \"load\" alone, not with %q", o.Word)
	}
	if o.Word != "weight" {
		if o.Weight != "" {
			return nil, false, refuse(http.StatusBadRequest, "a weight goes with the word \"weight\" alone, not with %q", o.Word)
		}
		admin := health.Admin(o.Word)
		if admin == health.Ready {
			return func(w *state.Word) { w.Admin, w.Forgiven = "", time.Now().UTC().Truncate(time.Second) }, false, nil
		}
		return func(w *state.Word) { w.Admin = admin }, true, nil
	}
	weight, err := health.ParseWeight(o.Weight)
	if err != nil {
		return nil, false, refuse(http.StatusBadRequest, "%v", err)
	}
	return func(w *state.Word) { w.Weight = weight }, weight.Zero(), nil
}

// resolve returns the address of an instance and the services and shards that use it, as
// they are now.
func (d *Daemon) resolve(instance, service string) (descriptor.Address, []user, error) {
	all, running := d.members()
	address, err := find(all, instance, service)
	if err != nil {
		return address, nil, err
	}
	shards := map[string]*host{}
	for _, h := range d.hosts() {
		shards[h.cfg.Name] = h
	}
	var users []user
	for _, m := range all {
		if m.address != address {
			continue
		}
		var u user
		if m.shard == "" {
			s := d.describe(running[m.service])
			u = user{m.of(), s.Address, "", s.Strategy, s.Instances}
		} else if h := shards[m.shard]; h != nil {
			s := h.describe()
			u = user{m.of(), "", s.Name, s.Strategy, s.Instances}
		}
		if !slices.ContainsFunc(u.instances, func(i status.Instance) bool { return i.Address == address.String() }) {
			return address, nil, refuse(http.StatusServiceUnavailable, "%s has only just been configured: try again in a moment", m.of())
		}
		users = append(users, u)
	}
	slices.SortFunc(users, func(a, b user) int { return strings.Compare(a.name, b.name) })
	return address, users, nil
}

// members lists all instances of the services and shards, with those services.
func (d *Daemon) members() (all []member, services map[descriptor.Address]*running) {
	d.mu.Lock()
	defer d.mu.Unlock()
	services = map[descriptor.Address]*running{}
	for a, r := range d.services {
		if r.shard != "" {
			continue
		}
		services[a] = r
		for _, i := range r.cfg.Instances {
			all = append(all, member{service: a, name: i.Name, address: i.Address})
		}
	}
	for _, s := range d.cfg.Shards {
		for _, i := range s.Instances {
			all = append(all, member{shard: s.Name, name: i.Name, address: i.Address})
		}
	}
	return all, services
}

// find returns the one address that instance, a name or an address, stands for in all
// services and shards, or in the one that is named.
func find(all []member, instance, service string) (found descriptor.Address, err error) {
	if service != "" {
		if all, err = membersOf(all, service); err != nil {
			return found, err
		}
	}
	named, _ := descriptor.ParseAddress(instance) // zero for a name
	var names, places []string
	various := make(map[descriptor.Address]bool)
	for _, c := range all {
		names = append(names, c.name)
		if c.name == instance || c.address == named {
			found = c.address
			various[c.address] = true
			places = append(places, fmt.Sprintf("%s of %s", c.address, c.of()))
		}
	}
	slices.Sort(names)
	slices.Sort(places)
	switch names = slices.Compact(names); {
	case len(various) == 0:
		return found, refuse(http.StatusNotFound, "there is no instance %q, but %s", instance, listed(names))
	case len(various) > 1:
		return found, refuse(http.StatusConflict, "%q stands for several instances: %s; pick one with --service ADDRESS", instance, listed(places))
	}
	return found, nil
}

// membersOf returns the instances of the service of an address, or of a shard.
func membersOf(all []member, service string) ([]member, error) {
	only, err := descriptor.ParseAddress(service)
	shard := func(m member) bool { return m.shard == service }
	if err != nil && !slices.ContainsFunc(all, shard) {
		return nil, refuse(http.StatusBadRequest, "--service: %v, and no shard is called so", err)
	}
	others := func(m member) bool { return m.shard != "" || m.service != only }
	if err != nil {
		others = func(m member) bool { return !shard(m) }
	}
	if all = slices.DeleteFunc(slices.Clone(all), others); len(all) == 0 {
		return nil, refuse(http.StatusNotFound, "there is no service %s", service)
	}
	return all, nil
}

// listed joins texts, as far as somebody reads them.
func listed(texts []string) string {
	const most = 20
	if more := len(texts) - most; more > 0 {
		texts = append(slices.Clone(texts[:most]), fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}

// oneOf names the first of some services, and how many others there are.
func oneOf(services []string) string {
	if len(services) == 1 {
		return services[0]
	}
	return fmt.Sprintf("%s and %d more", services[0], len(services)-1)
}

// isLast reports whether an instance is in service, and no other of the same service or
// shard is.
func isLast(instances []status.Instance, address descriptor.Address) bool {
	for _, i := range instances {
		wanted := i.Drain == nil && i.Weight > 0 && !fails(i)
		switch {
		case i.Address == address.String():
			if !wanted || i.State != status.StateOK && i.State != status.StateStarting {
				return false
			}
		case wanted && i.State == status.StateOK:
			return false
		}
	}
	return true
}

// fails reports whether checks or visits say that visitors of an instance are lost.
func fails(i status.Instance) bool {
	out := []string{string(health.Down), string(health.GoingUp)}
	return i.Path != "" || i.Check != nil && !i.Check.Doubt && slices.Contains(out, i.Check.Operating)
}

// answerOf describes an instance of some services and shards.
func answerOf(address descriptor.Address, users []user, word state.Word) status.Answer {
	a := status.Answer{Address: address.String(), Weight: word.Weight.String(), Since: word.Since}
	for _, u := range users {
		for _, i := range u.instances {
			if i.Address == a.Address {
				a.Admin = i.Admin
				a.Uses = append(a.Uses, status.Use{Service: u.service, Shard: u.shard, Strategy: u.strategy, Instance: i})
			}
		}
	}
	return a
}

// notes says what the operator may not expect. last are the services and
// shards that are left with no instance in service.
func notes(o status.Order, a status.Answer, last []string) (list []string) {
	switch {
	case len(a.Uses) == 1:
	case o.Word == "weight":
		list = append(list, fmt.Sprintf("%s use it: the weight is the same for all of them", a.Users()))
	default:
		list = append(list, fmt.Sprintf("%s use it: it is %q for all of them", a.Users(), o.Word))
	}
	if len(last) > 0 {
		list = append(list, fmt.Sprintf("no other instance of %s is in service: its introduction points stay published until one is, or until they expire", oneOf(last)))
	}
	weight, _ := health.ParseWeight(a.Weight)
	const none = "it gets no visitors all the same: "
	switch {
	case o.Word != "ready" && o.Word != "weight" || a.Uses[0].Instance.Drain == nil:
	case o.Word == "ready" && weight.Zero():
		list = append(list, none+"its weight is "+a.Weight)
	case o.Word == "weight" && a.Admin != string(health.Ready):
		list = append(list, fmt.Sprintf("%sit is %q", none, a.Admin))
	case !weight.Zero():
		list = append(list, none+"its agent says so")
	}
	if o.Word != "weight" {
		return list
	}
	for _, u := range a.Uses {
		if _, told := advice.Program(u.Strategy); !told && !selection.Weighs(u.Strategy) && weight != (health.Weight{}) && !weight.Zero() {
			list = append(list, fmt.Sprintf("the strategy %q of %s takes no notice of weights but 0", u.Strategy, u.Name()))
			break
		}
	}
	return list
}

func refuse(code int, format string, args ...any) error {
	return &status.RefusedError{Status: code, Reason: fmt.Sprintf(format, args...)}
}
