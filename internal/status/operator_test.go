package status

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// operatorOf records the orders that it gets, and answers with err.
type operatorOf struct {
	orders  []Order
	err     error
	cluster *clusterOf
}

func (o *operatorOf) Operate(_ context.Context, order Order) (Answer, error) {
	o.orders = append(o.orders, order)
	return Answer{Address: "zkorpcle.onion", Admin: order.Word, Weight: order.Weight}, o.err
}

func (o *operatorOf) InstanceStatus(instance, service string) (Answer, error) {
	return Answer{Address: instance, Uses: []Use{{Service: service}}}, o.err
}

func (o *operatorOf) CustomerStatus(customer string) (Customer, error) {
	return Customer{Name: customer, Shard: "s1"}, o.err
}

func (o *operatorOf) EachCustomer(func(Published)) {}

func (o *operatorOf) Cluster() ClusterOperator {
	if o.cluster == nil {
		return nil
	}
	return o.cluster
}

func TestOperate(t *testing.T) {
	path, operator := filepath.Join(t.TempDir(), SocketName), &operatorOf{}
	serveWith(t, path, Snapshot{}, operator)
	order := Order{Word: "weight", Instance: "web1", Service: "a.onion", Weight: "50%", Force: true}
	answer, err := Operate(t.Context(), path, order)
	if err != nil || answer.Admin != "weight" || answer.Weight != "50%" || len(operator.orders) != 1 || operator.orders[0] != order {
		t.Errorf("%+v, %v; the daemon got %+v", answer, err, operator.orders)
	}
	answer, err = QueryInstance(t.Context(), path, "web 1/%", "a.onion")
	if err != nil || answer.Address != "web 1/%" || answer.Uses[0].Service != "a.onion" || len(operator.orders) != 1 {
		t.Errorf("asked: %+v, %v, %d orders", answer, err, len(operator.orders))
	}
	if c, err := QueryCustomer(t.Context(), path, "kalypso & books"); err != nil || c.Name != "kalypso & books" || c.Shard != "s1" {
		t.Errorf("a customer: %+v, %v", c, err)
	}
	refused := (*RefusedError)(nil)
	operator.err = &RefusedError{http.StatusConflict, "web1 is the last"}
	if _, err := Operate(t.Context(), path, order); !errors.As(err, &refused) || *refused != (RefusedError{http.StatusConflict, "web1 is the last"}) {
		t.Errorf("refused: %v", err)
	}
	operator.err = errors.New("no space left")
	if _, err := Operate(t.Context(), path, order); !errors.As(err, &refused) || *refused != (RefusedError{http.StatusInternalServerError, "no space left"}) {
		t.Errorf("failed: %v", err)
	}
}

// What is no order is refused with an error, and never carried out; nor is one by GET.
func TestOperateRefuses(t *testing.T) {
	path, operator := filepath.Join(t.TempDir(), SocketName), &operatorOf{}
	serveWith(t, path, Snapshot{}, operator)
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		method, page, body string
		status             int
		says               string
	}{
		{"GET", "/instances/drain", `{"instance":"web1"}`, 200, `"address":"drain"`}, // an instance of that name
		{"PUT", "/instances/drain", `{"instance":"web1"}`, 405, ""},
		{"POST", "/instances/stop", `{"instance":"web1"}`, 404, `there is no word \"stop\"`},
		{"POST", "/instances/drain", ``, 400, "reading the order"},
		{"POST", "/instances/drain", `{"instance":"web1","forse":true}`, 400, "forse"},
		{"POST", "/instances/drain", `{"instance":"web1"} {}`, 400, "more behind it"},
		{"POST", "/instances/drain", `{"instance":1}`, 400, "reading the order"},
		{"POST", "/instances/drain", `{"instance":"` + strings.Repeat("x", maxOrder) + `"}`, 413, "too large"},
		{"POST", "/status", `{}`, 405, ""},
	} {
		request, err := http.NewRequestWithContext(t.Context(), test.method, "http://balancer"+test.page, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Errorf("%s %s: %v", test.method, test.page, err)
			continue
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != test.status || !strings.Contains(string(body), test.says) {
			t.Errorf("%s %s %.40s: %s %s, want %d with %q", test.method, test.page, test.body, response.Status, body, test.status, test.says)
		}
	}
	if len(operator.orders) != 0 {
		t.Errorf("carried out: %+v", operator.orders)
	}
}

// A daemon that takes no orders is told from one that refuses.
func TestOperateUnknown(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	serve(t, path)
	if _, err := Operate(t.Context(), path, Order{Word: "drain"}); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("%v", err)
	}
}
