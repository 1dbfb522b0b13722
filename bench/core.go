package main

import (
	"os/exec"
	"runtime"
	"strconv"
	"sync"
)

// pinnedCore is the core that everything runs on: the last one, which the
// system uses least for itself. It is empty where a process cannot be bound.
var pinnedCore = sync.OnceValue(func() string {
	core := strconv.Itoa(runtime.NumCPU() - 1)
	if exec.Command("taskset", "-c", core, "true").Run() != nil {
		return ""
	}
	return core
})
