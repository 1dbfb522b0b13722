package lab

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// Router is the web server behind the replicas of a shard. It tells the customers apart
// by the Host of a request, as tor does not say which address a visitor asked for, and
// answers with that and the name of the replica: "HOST REPLICA". Its zero value serves
// nobody. Its methods can be called from any goroutine.
type Router struct {
	mu     sync.Mutex
	served map[string]bool // by onion address; false: refused
}

// Serve has the customers with those onion addresses served.
func (r *Router) Serve(addresses ...string) { r.set(true, addresses) }

// Refuse has those customers refused, who may still have visitors: clients keep the
// descriptor of one who is withdrawn.
func (r *Router) Refuse(addresses ...string) { r.set(false, addresses) }

func (r *Router) set(served bool, addresses []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served == nil {
		r.served = map[string]bool{}
	}
	for _, a := range addresses {
		r.served[a] = served
	}
}

// HealthPath answers under every Host: health checks come by a replica's own address.
const HealthPath = "/health"

// Replica is the handler of one replica.
func (r *Router) Replica(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		host := strings.TrimSuffix(request.Host, ":80")
		r.mu.Lock()
		served, known := r.served[host]
		r.mu.Unlock()
		switch {
		case request.URL.Path == HealthPath:
			fmt.Fprintln(w, "well")
		case !known:
			http.Error(w, "nobody of that name is served here", http.StatusMisdirectedRequest)
		case !served:
			http.Error(w, "the customer is suspended", http.StatusForbidden)
		default:
			fmt.Fprintln(w, host, name)
		}
	})
}
