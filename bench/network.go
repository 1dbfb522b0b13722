package main

import "context"

func measureNetwork(ctx context.Context, o options) ([]*result, error) { return nil, nil }
