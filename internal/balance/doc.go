// Package balance is the main job: rounds that take the instances' descriptors
// from the HSDirs, choose among their introduction points, and keep a service's
// two master descriptors at the HSDirs where clients look for them.
//
// One Service has one goroutine, which owns all of its state. round.go reads as
// the flow of a round, a call for each stage. What a round should publish is
// decided by pure functions of values handed in (candidates.go, contents.go,
// plan.go); fetching, signing and posting are elsewhere, and each of them can
// fail for one instance, one slot or one service without holding up the others.
package balance
