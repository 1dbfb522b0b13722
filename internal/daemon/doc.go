// Package daemon wires the parts together and runs them: the connection to tor
// (or a tor of our own), the consensus, the services and the status socket. It
// is the only package that knows them all.
package daemon
