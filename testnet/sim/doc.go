// Package sim is a Tor network in memory: authorities that vote, relays that
// come and go, HSDirs, onion services that are instances of a balanced
// service, clients of that service, and a tor that speaks the control
// protocol to whoever dials it. It exists to run days of a balancer's work in
// seconds, with any of the faults a real network shows switched on and off
// while it runs.
//
// It reads the time from package time and waits in timers and pipes alone, so
// that inside a testing/synctest bubble all of it runs in virtual time. It
// opens no socket and no file. What happens, and when, follows from
// Config.Seed and from the moments at which callers call.
//
//	synctest.Test(t, func(t *testing.T) {
//		n := sim.New(sim.Config{Seed: 1, Churn: 0.05})
//		defer n.Close()
//		web := n.AddInstance(sim.InstanceConfig{Name: "web"})
//		tor := control.New(control.Config{Dial: n.Dial}) // run a balancer on it
//		client := n.NewClient(public, sim.ClientConfig{})
//		time.Sleep(24 * time.Hour)
//		web.SetOnline(false)
//		result := client.Request()
//	})
//
// What it says on the control port, and when it says nothing, follows tor
// 0.4.9's source. The hash ring, the outer wrapper of descriptors and the
// consensus are implemented here anew rather than borrowed from the packages
// under test, so that a mistake in those shows. Instances alone use package
// descriptor, to encode; its vectors are the check on that.
package sim
