package api

import (
	"net/http"
	"time"
)

// Routes lists what is served, each "METHOD PATH".
func Routes() (list []string) {
	for _, r := range newServer(nil).routes() {
		list = append(list, r.method+" "+r.path)
	}
	return list
}

// Description is the OpenAPI description.
var Description = description

// ShardList is the answer to GET /v1/shards.
type ShardList = shardList

// HandlerWith is Handler with other times and numbers.
func HandlerWith(host Host, followers int, keepAlive, patience time.Duration) http.Handler {
	s := newServer(host)
	s.followers, s.keepAlive, s.patience = make(chan struct{}, followers), keepAlive, patience
	return s.handler()
}
