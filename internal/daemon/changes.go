package daemon

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"onionbalancer/descriptor"
	"onionbalancer/internal/balance"
)

// changes says for the log, as keys and values, what a reload changes of a
// service. Nothing is said of what stays.
func changes(old, now balance.Config) (list []any) {
	say := func(key, value string) {
		if value != "" {
			list = append(list, key, value)
		}
	}
	turn := func(key string, before, after any) {
		if old, now := fmt.Sprint(before), fmt.Sprint(after); old != now {
			say(key, old+" -> "+now)
		}
	}
	added, removed, other := instanceChanges(old.Instances, now.Instances)
	say("added", strings.Join(added, ", "))
	say("removed", strings.Join(removed, ", "))
	say("changed", strings.Join(other, ", "))
	turn("strategy", old.Strategy.Name(), now.Strategy.Name())
	turn("max_introduction_points", old.Room.Points, now.Room.Points)
	turn("points_per_instance", old.Room.PerInstance, now.Room.PerInstance)
	turn("fetch_interval", interval(old), interval(now))
	turn("caa", old.CAA, now.CAA)
	if !slices.Equal(old.Clients, now.Clients) {
		turn("clients", len(old.Clients), fmt.Sprintf("%d, some of them others", len(now.Clients)))
	}
	if old.Keys.Reference != now.Keys.Reference {
		say("keys", "changed")
	}
	return list
}

// changedKeys lists the keys of a table whose values differ; old and now are
// structs of one type from package config.
func changedKeys(table string, old, now any) (keys []string) {
	a, b := reflect.ValueOf(old), reflect.ValueOf(now)
	for i := range a.NumField() {
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, table+"."+a.Type().Field(i).Tag.Get("toml"))
		}
	}
	return keys
}

func interval(cfg balance.Config) string {
	if cfg.FetchEvery == 0 {
		return "automatic"
	}
	return cfg.FetchEvery.Round(time.Millisecond).String()
}

// instanceChanges tells instances apart by their addresses, as balancing does:
// one that has a new address under its old name was removed and another added.
func instanceChanges(old, now []balance.Instance) (added, removed, other []string) {
	before := make(map[descriptor.Address]balance.Instance, len(old))
	for _, i := range old {
		before[i.Address] = i
	}
	for _, i := range now {
		was, there := before[i.Address]
		delete(before, i.Address)
		switch {
		case !there:
			added = append(added, i.Name)
			continue
		case was.Name != i.Name:
			other = append(other, fmt.Sprintf("%s is now called %s", was.Name, i.Name))
		}
		if was.Weight != i.Weight {
			other = append(other, fmt.Sprintf("%s weight %v -> %v", i.Name, was.Weight, i.Weight))
		}
		if client(was) != client(i) {
			other = append(other, i.Name+" client_key")
		}
	}
	for _, i := range old {
		if _, gone := before[i.Address]; gone {
			removed = append(removed, i.Name)
		}
	}
	return added, removed, other
}

// client is the public half of the key that the instance wants, zero for none.
func client(i balance.Instance) descriptor.AuthorizedClient {
	if i.Client == nil {
		return descriptor.AuthorizedClient{}
	}
	return i.Client.Client()
}

// instanceNames lists the names in their order.
func instanceNames(list []balance.Instance) string {
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return strings.Join(names, ", ")
}
