package state

// SealLayout is what meta holds for a layout.
func SealLayout(number uint64) []byte {
	sealed, _ := seal(metaBucket, layoutKey, number, nil)
	return sealed
}
