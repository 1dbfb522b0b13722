package daemon

import "testing"

func TestCheckBuild(t *testing.T) {
	var all []Finding
	c := &checker{tell: func(f Finding) { all = append(all, f) }}
	c.checkBuild(true)
	if len(all) != 0 {
		t.Errorf("of a good build: %+v", all)
	}
	c.checkBuild(false)
	if len(all) != 1 || all[0].Level != LevelWarning || all[0].Fix == "" {
		t.Errorf("of a build that erases nothing: %+v", all)
	}
}
