package etcd

import (
	"context"
	"errors"
	"time"
)

type leaseRequest struct {
	ID  int64 `json:"ID,string,omitempty"`
	TTL int64 `json:"TTL,string,omitempty"`
}

type leaseAnswer struct {
	plain
	ID  int64 `json:"ID,string"`
	TTL int64 `json:"TTL,string"` // seconds
}

// Grant makes a lease. It lasts for ttl in whole seconds at least, from the last time that
// it was kept alive, and anew when another etcd becomes the leader. If an answer is lost, one
// more lease is made; the other ends by itself.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (id int64, err error) {
	ask := leaseRequest{TTL: int64((ttl + time.Second - 1) / time.Second)}
	answer, err := call(ctx, c, "lease/grant", ask, again, func(a *leaseAnswer) error {
		if a.ID <= 0 || a.TTL <= 0 {
			return errors.New("it is no lease")
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return answer.ID, nil
}

// KeepAlive renews a lease and returns how long it lasts, or ErrLeaseLost.
func (c *Client) KeepAlive(ctx context.Context, id int64) (time.Duration, error) {
	const path = "lease/keepalive"
	answer, err := call(ctx, c, path, leaseRequest{ID: id}, again, func(a *streamed[leaseAnswer]) error {
		if a.Result.ID != id || a.Result.TTL > int64(time.Duration(1<<63-1)/time.Second) {
			return errors.New("it is another lease")
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if answer.Result.TTL <= 0 {
		return 0, newError(context.Background(), path, []error{ErrLeaseLost}, "it was revoked, or not renewed in time")
	}
	return time.Duration(answer.Result.TTL) * time.Second, nil
}

// Revoke ends a lease and deletes its keys. It may have ended before.
func (c *Client) Revoke(ctx context.Context, id int64) error {
	_, err := call[plain](ctx, c, "lease/revoke", leaseRequest{ID: id}, again, nil)
	if errors.Is(err, ErrLeaseLost) {
		return nil
	}
	return err
}
