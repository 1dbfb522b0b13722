// Package scale measures how a balancer grows with its services, which are customers of
// shards: the rooms of the daemon, wired as the daemon wires them, in virtual time, on a
// simulated network with five tors. The program in bench/scale/run prints the figures.
package scale

// Mark begins the line on which the test prints a Result.
const Mark = "scale: "

// Result is what one process measured with one number of services.
type Result struct {
	Services  int     `json:"services"`
	Shards    int     `json:"shards"`
	Instances int     `json:"instances"`
	RSS       float64 `json:"rss_mib"`                 // VmRSS at the end, garbage included, without the network's share
	CPU       float64 `json:"cpu_ms_per_service_hour"` // without the network's share
	Queue     float64 `json:"queue_s"`                 // to queue 16 uploads of each service
	Fetches   float64 `json:"fetches_per_minute"`      // that HSDirs were asked for, of instances' descriptors

	Peak       float64 `json:"peak_rss_mib"`    // VmHWM since the services began, without the network's share
	NetworkRSS float64 `json:"network_rss_mib"` // when no service had begun
	NetworkCPU float64 `json:"network_cpu_ms_per_service_hour"`
	Readbacks  float64 `json:"readbacks_per_minute"` // that HSDirs were asked for, of services' own descriptors
	Uploads    float64 `json:"uploads_per_service_hour"`
	Rejected   int     `json:"uploads_rejected"`
	Publish    float64 `json:"publish_min"` // until all HSDirs had all descriptors, in virtual time
}
