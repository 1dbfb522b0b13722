// Package balance keeps the two master descriptors of a service at the HSDirs where
// clients look for them.
//
// A Service is a loop that owns all state of one public address (service.go), and
// Plan (plan.go) is a pure function of that state and of the state of the
// instances, the network and the credentials: it says what every slot should hold,
// and why. It results in an edition: one revision counter with the contents of
// every slot. The loop makes the edition, reserves its counter in the store and
// hands it to the upload queue (publish.go). Anything that can hang (fetching,
// certifying, storing, signing, uploading) runs elsewhere, and its result comes back
// as a function that the loop calls.
package balance
