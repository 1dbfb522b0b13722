package failpoint

import "testing"

// Without the tag there is nothing of it.
func TestOff(t *testing.T) {
	t.Setenv(Skew, "1h")
	if Now() != nil {
		t.Skip("built with the tag failpoints")
	}
	Reach(Plan)
}
