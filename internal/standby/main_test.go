package standby

import (
	"testing"

	"onionbalancer/internal/nice"
)

func TestMain(m *testing.M) {
	nice.StepAside()
	m.Run()
}
