package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"onionbalancer/internal/socket"
)

// clusterOf records the orders that it gets, and answers with err.
type clusterOf struct {
	orders []string
	err    error
}

func (c *clusterOf) Status() Cluster {
	return Cluster{Name: "main", Manager: "m1", Draining: slices.Contains(c.orders, "drain true")}
}

func (c *clusterOf) Drain(on bool) error {
	c.orders = append(c.orders, fmt.Sprintf("drain %t", on))
	return c.err
}

func (c *clusterOf) Forget(_ context.Context, manager string) error {
	c.orders = append(c.orders, "forget "+manager)
	return c.err
}

func (c *clusterOf) Restore(context.Context) error {
	c.orders = append(c.orders, "restore")
	return c.err
}

func TestClusterOrders(t *testing.T) {
	path, operator := filepath.Join(t.TempDir(), SocketName), &operatorOf{cluster: &clusterOf{}}
	serveWith(t, path, Snapshot{}, operator)
	if c, err := QueryCluster(t.Context(), path); err != nil || c.Name != "main" || len(operator.cluster.orders) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	a, err := OrderCluster(t.Context(), path, ClusterOrder{Word: "drain"})
	if err != nil || !a.Cluster.Draining {
		t.Errorf("drain: %+v, %v", a, err)
	}
	if _, err := OrderCluster(t.Context(), path, ClusterOrder{Word: "undrain"}); err != nil {
		t.Error(err)
	}
	if _, err := OrderCluster(t.Context(), path, ClusterOrder{Word: "forget", Manager: "m3"}); err != nil {
		t.Error(err)
	}
	if a, err = OrderCluster(t.Context(), path, ClusterOrder{Word: "restore"}); err != nil || a.Cluster.Name != "main" {
		t.Errorf("restore: %+v, %v", a, err)
	}
	if want := []string{"drain true", "drain false", "forget m3", "restore"}; !slices.Equal(operator.cluster.orders, want) {
		t.Errorf("it got %q", operator.cluster.orders)
	}
	refused := (*RefusedError)(nil)
	operator.cluster.err = &RefusedError{http.StatusConflict, "it shows signs of life"}
	if _, err := OrderCluster(t.Context(), path, ClusterOrder{Word: "forget", Manager: "m2"}); !errors.As(err, &refused) || refused.Reason != "it shows signs of life" {
		t.Errorf("refused: %v", err)
	}
	operator.cluster.err = errors.New("no quorum")
	if _, err := OrderCluster(t.Context(), path, ClusterOrder{Word: "restore"}); !errors.As(err, &refused) || *refused != (RefusedError{http.StatusInternalServerError, "no quorum"}) {
		t.Errorf("failed: %v", err)
	}
}

// What is no order is not carried out; nor is one of a manager that is alone, or by GET.
func TestClusterOrdersRefused(t *testing.T) {
	path, operator := filepath.Join(t.TempDir(), SocketName), &operatorOf{cluster: &clusterOf{}}
	serveWith(t, path, Snapshot{}, operator)
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		method, page, body string
		status             int
		says               string
	}{
		{"GET", "/cluster/drain", `{}`, 405, ""},
		{"POST", "/cluster", `{}`, 405, ""},
		{"POST", "/cluster/stop", `{}`, 404, `there is no word \"stop\"`},
		{"POST", "/cluster/drain", ``, 400, "reading the order"},
		{"POST", "/cluster/drain", `{"on":true}`, 400, "on"},
		{"POST", "/cluster/drain", `{"manager":"m2"}`, 400, "goes with the word"},
		{"POST", "/cluster/forget", `{}`, 400, "goes with the word"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), test.method, "http://balancer"+test.page, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != test.status || !strings.Contains(string(body), test.says) {
			t.Errorf("%s %s %s: %s %s, want %d with %q", test.method, test.page, test.body, response.Status, body, test.status, test.says)
		}
	}
	if len(operator.cluster.orders) != 0 {
		t.Errorf("carried out: %q", operator.cluster.orders)
	}
	operator.cluster = nil
	_, first := QueryCluster(t.Context(), path)
	_, second := OrderCluster(t.Context(), path, ClusterOrder{Word: "drain"})
	for _, err := range []error{first, second} {
		if refused := (*RefusedError)(nil); !errors.As(err, &refused) || refused.Status != 409 || !strings.Contains(refused.Reason, "in no cluster") {
			t.Errorf("alone: %v", err)
		}
	}
}

// silentCluster has a store that never answers.
type silentCluster struct{ clusterOf }

func (silentCluster) Forget(ctx context.Context, _ string) error {
	<-ctx.Done()
	return fmt.Errorf("storing: %w", context.Cause(ctx))
}

func (silentCluster) Restore(ctx context.Context) error {
	<-ctx.Done()
	return fmt.Errorf("storing: %w", ctx.Err())
}

// Who gives an order is told that the store does not answer before he takes it for the balancer.
func TestClusterOrderSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, o := range []ClusterOrder{{Word: "forget", Manager: "m3"}, {Word: "restore"}} {
			began := time.Now()
			_, err := carryOut(t.Context(), &silentCluster{}, o)
			if refused := (*RefusedError)(nil); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "the store of the cluster does not answer") {
				t.Errorf("%s: %v", o.Word, err)
			}
			if took := time.Since(began); took >= o.patience() || o.patience() < socket.Patience {
				t.Errorf("%s took %v of %v", o.Word, took, o.patience())
			}
		}
	})
}
