package control

import (
	"strings"
	"testing"
	"testing/synctest"
)

// tor's own words about a consensus that it does not have are advice to itself.
const noConsensus = "551 Could not open cached consensus. Make sure FetchUselessDescriptors is set to 1."

func TestWhyNoConsensus(t *testing.T) {
	const starting = `NOTICE BOOTSTRAP PROGRESS=30 TAG=loading_status SUMMARY="Loading networkstatus consensus"`
	for name, test := range map[string]struct {
		version string // 0.4.9.11 unless set
		conf    string // the options that are not at their defaults
		phase   string
		event   string
		refusal string // noConsensus unless set
		percent int
		errHas  string
		mend    string
	}{
		"starting":        {phase: starting, percent: 30, errHas: "30 % of its start (Loading networkstatus consensus)", mend: "firewall"},
		"started":         {phase: `NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"`, percent: 100, errHas: "has no new consensus yet", mend: "firewall"},
		"off the network": {conf: "DisableNetwork=1", phase: starting, percent: -1, errHas: "tor has its network switched off", mend: "set DisableNetwork 0"},
		"no directory":    {conf: "FetchServerDescriptors=0", phase: starting, percent: -1, errHas: "FetchServerDescriptors 0", mend: "remove"},
		"no microdescs":   {conf: "UseMicrodescriptors=0", phase: starting, percent: -1, errHas: "UseMicrodescriptors 0", mend: "remove"},
		"other defaults":  {conf: "UseMicrodescriptors=auto", phase: starting, percent: 30, errHas: "30 %", mend: "firewall"},
		"too old":         {version: "0.3.5.16", percent: -1, errHas: "tor 0.3.5.16 is older than 0.4.8", mend: "install a newer tor"},
		"no route": {phase: `WARN BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay" WARNING="No route to host" REASON=NOROUTE ` +
			`COUNT=1 RECOMMENDATION=warn HOSTID="A" HOSTADDR="192.0.2.1:443"`, percent: -1, errHas: "does not get on: No route to host", mend: "firewall"},
		"one relay of many": {phase: `WARN BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay" WARNING="No route to host" ` +
			`REASON=NOROUTE COUNT=1 RECOMMENDATION=ignore`, percent: 5, errHas: "5 %", mend: "firewall"},
		"clock behind": {phase: `WARN BOOTSTRAP PROGRESS=30 TAG=loading_status SUMMARY="Loading" ` +
			`WARNING="Clock skew -18000 in microdesc flavor consensus from CONSENSUS" REASON=CLOCK_SKEW COUNT=1 RECOMMENDATION=warn`,
			percent: -1, errHas: "clock 5h0m0s behind the Tor network's", mend: "set the clock right"},
		"clock ahead": {phase: starting, event: "650 STATUS_GENERAL WARN CLOCK_SKEW SKEW=7200 SOURCE=OR:192.0.2.1:443\r\n",
			percent: -1, errHas: "clock 2h0m0s ahead of the Tor network's", mend: "set the clock right"},
		"other events":      {phase: starting, event: "650 STATUS_GENERAL WARN DANGEROUS_VERSION CURRENT=1\r\n", percent: 30, errHas: "30 %", mend: "firewall"},
		"filtered":          {refusal: "510 Command filtered", percent: -1, errHas: "a filter before", mend: "GETINFO"},
		"no answer to that": {phase: "", percent: -1, errHas: "does not say why"},
	} {
		t.Run(name, func(t *testing.T) {
			tor := new(fakeTor)
			if test.version != "" {
				tor.version = test.version
			}
			tor.on("GETCONF", func(c *fakeConn, line, _ string) {
				if option := strings.TrimPrefix(line, "GETCONF "); strings.HasPrefix(test.conf, option+"=") {
					c.say("250 " + test.conf)
				} else {
					c.say("250 " + option + "=x")
				}
			})
			tor.on("GETINFO", func(c *fakeConn, line, _ string) {
				switch {
				case line == "GETINFO consensus" && test.refusal != "":
					c.say(test.refusal)
				case line == "GETINFO consensus":
					c.say(noConsensus)
				case test.phase == "":
					c.say(`552 Unrecognized key "status/bootstrap-phase"`)
				default:
					infoAnswer(test.phase)(c, line, "")
				}
			})
			withClient(t, tor, Config{}, func(t *testing.T, c *Client) {
				synctest.Wait() // for the heartbeat, which asks for an answer
				tor.event(test.event)
				synctest.Wait()
				_, refused := c.GetInfo(t.Context(), "consensus")
				percent, why := c.WhyNoConsensus(t.Context(), refused)
				text, mend := Split(why)
				if percent != test.percent || !strings.Contains(text, test.errHas) || !strings.Contains(mend, test.mend) {
					t.Errorf("%d, %q, advice %q; want %d, %q, %q", percent, text, mend, test.percent, test.errHas, test.mend)
				}
				if strings.Contains(why.Error(), "FetchUselessDescriptors") || strings.Contains(why.Error(), "192.0.2.1") {
					t.Errorf("says %v", why)
				}
			})
		})
	}
}
