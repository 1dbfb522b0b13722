package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"onionbalancer/internal/state"
)

// nameKey is the local key of the name of a manager that was given none.
const nameKey = "cluster/manager"

// nameLength is how many random characters such a name has: 40 bits.
const nameLength = 8

// Name returns the name of a manager that was given none: a random one, which it keeps in its
// own store, so that it is the same in the next process.
func Name(ctx context.Context, local Local) (string, error) {
	name, err := localName(local)
	if err == nil && name == "" {
		name = "m-" + strings.ToLower(rand.Text()[:nameLength])
		_, err = local.Swap(ctx, state.Change{Key: nameKey, Value: []byte(name)})
		if errors.Is(err, state.ErrConflict) {
			name, err = localName(local)
		}
	}
	if err != nil {
		return "", fmt.Errorf("naming this manager: %w", err)
	}
	return name, nil
}

func localName(local Local) (string, error) {
	value, _, err := local.Get(nameKey)
	return string(value), err
}
