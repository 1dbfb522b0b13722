package process

import (
	"time"

	"onionbalancer/internal/tor/control"
)

func (p *Process) noteStart(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.PID, p.state.Since = pid, time.Now()
	p.state.Bootstrap = control.Progress{}
}

// noteOpen lets those in Dial go on.
func (p *Process) noteOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.listening)
}

func (p *Process) noteEnd(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.PID, p.state.Since = 0, time.Now()
	p.state.Bootstrap = control.Progress{}
	if err != nil {
		p.state.LastError = err.Error()
	}
	select {
	case <-p.listening:
		p.listening = make(chan struct{})
	default: // it never opened: who waits goes on waiting
	}
}

func (p *Process) noteVersion(version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Version = version
}

// noteProgress skips what was told already.
func (p *Process) noteProgress(step control.Progress) {
	p.mu.Lock()
	news := p.state.Bootstrap != step
	p.state.Bootstrap = step
	p.mu.Unlock()
	if !news {
		return
	}
	p.cfg.Log.Debug("tor's bootstrap", "percent", step.Percent, "summary", step.Summary, "warning", step.Warning)
	if p.cfg.OnBootstrap != nil {
		p.cfg.OnBootstrap(step)
	}
}
