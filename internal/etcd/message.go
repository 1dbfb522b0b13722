package etcd

import (
	"encoding/json"
	"errors"
)

// The gateway writes integers of 64 bits as strings, and bytes in base64. What is zero, or
// empty, it leaves out.

// header is in nearly every answer.
type header struct {
	Cluster  uint64 `json:"cluster_id,string"`
	Member   uint64 `json:"member_id,string"`
	Revision int64  `json:"revision,string"`
}

// plain is what answers have in common.
type plain struct {
	Header header `json:"header"`
}

func (a *plain) cluster() uint64     { return a.Header.Cluster }
func (a *plain) failed() *serverSaid { return nil }

// streamed is an answer of a method that streams: Result or Error is there.
type streamed[T any] struct {
	Result *T          `json:"result"`
	Error  *serverSaid `json:"error"`
}

func (a *streamed[T]) cluster() uint64 {
	if r, ok := any(a.Result).(interface{ cluster() uint64 }); ok && a.Result != nil {
		return r.cluster()
	}
	return 0
}

func (a *streamed[T]) failed() *serverSaid {
	if a.Error == nil && a.Result == nil {
		return &serverSaid{Code: codeUnavailable, Message: "the answer is empty"}
	}
	return a.Error
}

// codeUnavailable is gRPC's.
const codeUnavailable = 14

// serverSaid is an error of a server's. Streams name the code otherwise.
type serverSaid struct {
	Code     int    `json:"code"`
	GRPCCode int    `json:"grpc_code"`
	Message  string `json:"message"`
}

type rangeRequest struct {
	Key       []byte `json:"key"`
	End       []byte `json:"range_end,omitempty"`
	Limit     int64  `json:"limit,string,omitempty"`
	Revision  int64  `json:"revision,string,omitempty"`
	MinMod    int64  `json:"min_mod_revision,string,omitempty"`
	KeysOnly  bool   `json:"keys_only,omitempty"`
	CountOnly bool   `json:"count_only,omitempty"`
}

type rangeAnswer struct {
	plain
	KVs   []KV  `json:"kvs"`
	More  bool  `json:"more"`
	Count int64 `json:"count,string"`
}

type compare struct {
	Key    []byte `json:"key"`
	Target string `json:"target"` // MOD
	Result string `json:"result"` // EQUAL
	Mod    int64  `json:"mod_revision,string"`
}

type put struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value,omitempty"`
	Lease int64  `json:"lease,string,omitempty"`
}

type txnOp struct {
	Put    *put          `json:"request_put,omitempty"`
	Delete *rangeRequest `json:"request_delete_range,omitempty"`
	Range  *rangeRequest `json:"request_range,omitempty"`
}

type txnRequest struct {
	Compare []compare `json:"compare,omitempty"`
	Success []txnOp   `json:"success,omitempty"`
	Failure []txnOp   `json:"failure,omitempty"`
}

func newTxn(ops []Op) txnRequest {
	var t txnRequest
	for _, op := range ops {
		key := []byte(op.Key)
		if op.Want != Any {
			t.Compare = append(t.Compare, compare{Key: key, Target: "MOD", Result: "EQUAL", Mod: op.Want})
		}
		if op.Value == nil {
			t.Success = append(t.Success, txnOp{Delete: &rangeRequest{Key: key}})
		} else {
			t.Success = append(t.Success, txnOp{Put: &put{Key: key, Value: op.Value, Lease: op.Lease}})
		}
		t.Failure = append(t.Failure, txnOp{Range: &rangeRequest{Key: key}})
	}
	return t
}

type txnAnswer struct {
	plain
	Succeeded bool `json:"succeeded"`
	Responses []struct {
		Range *struct {
			KVs []KV `json:"kvs"`
		} `json:"response_range"`
	} `json:"responses"`
}

// errNoKey ends the decoding of a list at its first element that cannot be one, so that a
// list takes no more memory than a few times its text.
var errNoKey = errors.New("a key without a name or a revision")

// UnmarshalJSON takes a key as the gateway writes it. Its Value is not nil.
func (kv *KV) UnmarshalJSON(text []byte) error {
	var v struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
		Mod   int64  `json:"mod_revision,string"`
		Lease int64  `json:"lease,string"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	if len(v.Key) == 0 || v.Mod <= 0 {
		return errNoKey
	}
	if v.Value == nil {
		v.Value = []byte{}
	}
	*kv = KV{Key: string(v.Key), Value: v.Value, Revision: v.Mod, Lease: v.Lease}
	return nil
}

// event is a KV as a watch tells of it.
type event struct{ KV KV }

// UnmarshalJSON takes a key that was put or deleted.
func (e *event) UnmarshalJSON(text []byte) error {
	var v struct {
		Type string `json:"type"` // none is PUT
		KV   KV     `json:"kv"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	switch {
	case v.KV.Key == "":
		return errNoKey
	case v.Type == "DELETE":
		v.KV.Value = nil
	case v.Type != "" && v.Type != "PUT":
		return errors.New("an event of an unknown type")
	}
	e.KV = v.KV
	return nil
}

// start is the first key that begins with prefix, for etcd: it knows no empty keys.
func start(prefix string) []byte {
	if prefix == "" {
		return []byte{0}
	}
	return []byte(prefix)
}

// end is the first key after all that begin with prefix. A zero byte is etcd's infinity.
func end(prefix string) []byte {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != 0xff {
			b[i]++
			return b[:i+1]
		}
	}
	return []byte{0}
}
