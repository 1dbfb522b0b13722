package config

import (
	"testing"
	"time"

	"onionbalancer/internal/health"
)

// A key of a check has the value of the nearest table that gives it.
func TestChecksInherit(t *testing.T) {
	c := parse(t, `
[check]
kind = "http"
path = "/health"
interval = "10s"
fast_interval = "1s"
timeout = "5s"
fall = 4
jitter = 0.5
probe = true
public_interval = "1m"
canary = "`+addressD+`.onion:8080"

[[service]]
key = "a"
  [[service.instance]]
  address = "`+addressA+`"
  [[service.instance]]
  address = "`+addressB+`"
    [service.instance.check]
    kind = "agent"
    port = 9777
    address = "`+addressC+`.onion"
    jitter = 0.0
    probe = false

[[service]]
key = "b"
check = { kind = "none" }
  [[service.instance]]
  address = "`+addressC+`"

[[service]]
key = "c"
  [service.check]
  interval = "2s"
  rise = 1
  expect_status = "200"
  public_interval = "0s"
  [[service.instance]]
  address = "`+addressD+`"
`)
	http := health.Spec{
		Kind: health.HTTP, Port: 80, AnyPort: true, Path: "/health", Status: "2xx,3xx",
		Interval: 10 * time.Second, FastInterval: time.Second, Timeout: 5 * time.Second, Rise: 2, Fall: 4, Jitter: 0.5,
	}
	agent := http
	agent.Kind, agent.Port, agent.AnyPort, agent.Path, agent.Status, agent.Jitter = health.Agent, 9777, false, "", "", 0
	agent.Address = address(t, addressC)
	quick := http
	quick.Interval, quick.FastInterval, quick.Rise, quick.Status = 2*time.Second, 500*time.Millisecond, 1, "200"
	first := c.Services[0]
	for n, want := range []health.Spec{http, agent} {
		if got := first.Instances[n].Spec; got != want {
			t.Errorf("instance %d:\n%+v, want\n%+v", n, got, want)
		}
	}
	if !first.Instances[0].Probe || first.Instances[1].Probe || first.Public != time.Minute {
		t.Errorf("probe %v, %v, public %v", first.Instances[0].Probe, first.Instances[1].Probe, first.Public)
	}
	if got := c.Services[1]; got.Instances[0].Spec != (health.Spec{Kind: health.None}) || got.Public != 0 {
		t.Errorf("none: %+v, public %v", got.Instances[0].Spec, got.Public)
	}
	if got := c.Services[2]; got.Instances[0].Spec != quick || got.Public != 0 {
		t.Errorf("\n%+v, want\n%+v, public %v", got.Instances[0].Spec, quick, got.Public)
	}
	if a, port, err := CanaryTarget(c.Check.Canary); err != nil || a != address(t, addressD) || port != 8080 {
		t.Error(a, port, err)
	}
}
