// Package testnet runs private Tor networks of real tor processes on the
// loopback interface: directory authorities, relays, clients and onion
// services, each with a directory of its own.
//
// A network is made for tests and demonstrations. It keeps tor's testing
// timetable ([Config.VotingInterval] and what follows from it), lets no
// traffic leave the machine, and needs no privileges. Nothing outlives the
// process that started it: every tor holds one end of a socket pair whose
// other end is ours, and leaves as soon as that closes, be it by
// [Network.Stop], by a panic or by kill -9.
//
// The usual way through the package:
//
//	net, err := testnet.Start(ctx, testnet.Config{Clients: []string{"c1"}})
//	defer net.Stop()
//	web, err := net.Service(ctx, testnet.ServiceConfig{Name: "web"})
//	err = web.Published(ctx)
//	body, err := net.Client("c1").Get(ctx, "user1", web.URL("/"))
package testnet
