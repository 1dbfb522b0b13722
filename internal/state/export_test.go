package state

// SealLayout is what meta holds for a layout.
func SealLayout(number uint64) []byte {
	sealed, _ := seal(metaBucket, layoutKey, number, nil)
	return sealed
}

// CommitTogether commits changes and events in one batch, and returns their errors.
func (d *DB) CommitTogether(changes []Change, events [][]byte) (ofChanges, ofEvents error) {
	a, b := &request{changes: changes, done: make(chan struct{})}, &request{events: events, done: make(chan struct{})}
	d.writeBatch([]*request{a, b})
	return a.err, b.err
}
