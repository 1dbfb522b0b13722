package etcdlab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// poll is how often the Lab looks for what it waits for.
const poll = 20 * time.Millisecond

// ask makes a request of the operator's at a member.
func (l *Lab) ask(ctx context.Context, member int, path string, in map[string]any, out any) error {
	token := ""
	if l.root != "" && path != "auth/authenticate" && path != "maintenance/status" {
		var got struct{ Token string }
		err := l.ask(ctx, member, "auth/authenticate", map[string]any{"name": "root", "password": l.root}, &got)
		if err != nil {
			return err
		}
		token = got.Token
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.Endpoints()[member]+"/v3/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	answer, err := l.admin.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, text)
	}
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(text, out)
}

// any makes a request at the first member that answers.
func (l *Lab) any(ctx context.Context, path string, in map[string]any, out any) error {
	var errs []error
	for i, m := range l.members {
		if m.running() && !m.paused {
			err := l.ask(ctx, i, path, in, out)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
	}
	if errs == nil {
		return errors.New("no member runs")
	}
	return errors.Join(errs...)
}

type status struct {
	Header struct {
		Member   string `json:"member_id"`
		Revision int64  `json:"revision,string"`
	}
	Leader string
}

// leader returns which member is the leader, by all that run.
func (l *Lab) leader(ctx context.Context) (member int, err error) {
	leader, names := "", map[string]int{}
	for i, m := range l.members {
		if !m.running() || m.paused {
			continue
		}
		var s status
		if err := l.ask(ctx, i, "maintenance/status", map[string]any{}, &s); err != nil {
			return 0, err
		}
		if s.Leader == "" || s.Leader == "0" || leader != "" && leader != s.Leader {
			return 0, errors.New("there is no leader")
		}
		leader = s.Leader
		names[s.Header.Member] = i
	}
	if i, found := names[leader]; found {
		return i, nil
	}
	return 0, errors.New("there is no leader")
}

// Leader waits until all members that run, and are not paused, agree on a leader, and returns
// which it is.
func (l *Lab) Leader(ctx context.Context) (member int, err error) {
	for {
		if member, err = l.leader(ctx); err == nil {
			return member, nil
		}
		for _, m := range l.members {
			if err := m.crashed(); err != nil {
				return 0, err
			}
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("waiting for etcd: %w: %w", ctx.Err(), err)
		case <-time.After(poll):
		}
	}
}

// Revision returns the latest.
func (l *Lab) Revision(ctx context.Context) (int64, error) {
	var s status
	err := l.any(ctx, "kv/range", map[string]any{"key": []byte("none"), "keys_only": true}, &s)
	return s.Header.Revision, err
}

// Compact forgets what was before a revision.
func (l *Lab) Compact(ctx context.Context, revision int64) error {
	return l.any(ctx, "kv/compaction", map[string]any{"revision": revision, "physical": true}, nil)
}

// Defrag gives the room that compaction left back, at each member that runs.
func (l *Lab) Defrag(ctx context.Context) error {
	for i, m := range l.members {
		if m.running() && !m.paused {
			if err := l.ask(ctx, i, "maintenance/defragment", map[string]any{}, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// Disarm ends all alarms.
func (l *Lab) Disarm(ctx context.Context) error {
	var got struct {
		Alarms []struct {
			Member string `json:"memberID"`
			Alarm  string
		}
	}
	if err := l.any(ctx, "maintenance/alarm", map[string]any{"action": "GET"}, &got); err != nil {
		return err
	}
	for _, a := range got.Alarms {
		err := l.any(ctx, "maintenance/alarm", map[string]any{"action": "DEACTIVATE", "memberID": a.Member, "alarm": a.Alarm}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// EnableUsers makes the users of the configuration, and root. Start does that, and it is to be
// done again after Wipe.
func (l *Lab) EnableUsers(ctx context.Context) error {
	root := rand.Text()
	for _, step := range []struct {
		path string
		in   map[string]any
	}{
		{"auth/role/add", map[string]any{"name": "root"}},
		{"auth/user/add", map[string]any{"name": "root", "password": root}},
		{"auth/user/grant", map[string]any{"user": "root", "role": "root"}},
	} {
		if err := l.any(ctx, step.path, step.in, nil); err != nil {
			return err
		}
	}
	for _, u := range l.config.Users {
		if err := l.AddUser(ctx, u); err != nil {
			return err
		}
	}
	if err := l.any(ctx, "auth/enable", map[string]any{}, nil); err != nil {
		return err
	}
	l.root = root
	return nil
}

// AddUser adds a user, with a role that has the user's name.
func (l *Lab) AddUser(ctx context.Context, u User) error {
	start, end := []byte{0}, []byte{0} // all keys
	if u.Prefix != "" {
		start, end = []byte(u.Prefix), []byte(u.Prefix)
		end[len(end)-1]++
	}
	for _, step := range []struct {
		path string
		in   map[string]any
	}{
		{"auth/user/add", map[string]any{"name": u.Name, "password": u.Password}},
		{"auth/role/add", map[string]any{"name": u.Name}},
		{"auth/role/grant", map[string]any{"name": u.Name, "perm": map[string]any{"permType": "READWRITE", "key": start, "range_end": end}}},
		{"auth/user/grant", map[string]any{"user": u.Name, "role": u.Name}},
	} {
		if err := l.any(ctx, step.path, step.in, nil); err != nil {
			return err
		}
	}
	return nil
}

// DeleteUser deletes a user, whose tokens end, and the role that AddUser made.
func (l *Lab) DeleteUser(ctx context.Context, name string) error {
	if err := l.any(ctx, "auth/user/delete", map[string]any{"name": name}, nil); err != nil {
		return err
	}
	return l.any(ctx, "auth/role/delete", map[string]any{"role": name}, nil)
}
