package gateway

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/machine"
	"rollcall/subjects"
)

// FuzzFrame holds that a frame, whatever it is, is read by both dialects without
// harm. It grows out of the corpus in testdata/fuzz/FuzzFrame: what is refused is refused with a typed error that names a field and a rule,
// and what is told of it can be encoded. The end-to-end tests send the corpus, and
// what grows out of it, to a real gateway.
func FuzzFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, d := range dialects() {
			kind := d.kindOf(data)
			if kind == frameNoJSON {
				require.False(t, json.Valid(data) && strings.ToValidUTF8(string(data), "?") == string(data), "%s reads no JSON", d.name)
			}
			_ = encodeFrame(response{RequestID: nameOf(data).RequestID})
			if kind == frameResponse {
				_, err := d.response(data)
				requireTyped(t, err)
			}
			r, err := d.request(data)
			requireTyped(t, err)
			if kind == frameRequest && err == nil {
				readPayload(t, r)
			}
		}
	})
}

// readPayload reads a payload as each request that there is.
func readPayload(t *testing.T, r machine.Request) {
	t.Helper()
	list, err := subjects.Decode[listPayload](r.Payload)
	if err == nil {
		_, err = newListQuery(list)
	}
	requireTyped(t, err)
	listen, err := subjects.Decode[listenPayload](r.Payload)
	if err == nil {
		_, err = newListenQuery(listen.Types, listen.Cursor)
	}
	requireTyped(t, err)
	published, err := subjects.Decode[publishPayload](r.Payload)
	if err == nil {
		var event subjects.Event
		if event, err = published.event(time.Unix(0, 0)); err == nil {
			requireSubject(t, subjects.ProducerEvent("acme", event.Type))
		}
	}
	requireTyped(t, err)
	peer, err := subjects.Decode[peerPayload](r.Payload)
	if err == nil {
		err = peer.check()
	}
	requireTyped(t, err)
	_, err = subjects.Decode[beaconPayload](r.Payload)
	requireTyped(t, err)
	for _, command := range subjects.LeaseCommands() {
		if problem := subjects.CheckLeaseRequest(command, r.Payload); problem != nil {
			requireTyped(t, problem)
		}
	}
}

// requireSubject holds that what is accepted stays within its tenant.
func requireSubject(t *testing.T, s subjects.Subject) {
	t.Helper()
	parsed, err := subjects.Parse(s.String())
	require.NoError(t, err, s)
	require.Equal(t, "acme", parsed.Tenant)
	require.False(t, strings.ContainsAny(s.String(), "*> \x00"), s)
}

func requireTyped(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	problem, is := errors.AsType[*subjects.Problem](err)
	require.True(t, is, "%T: %v", err, err)
	require.NotEmpty(t, problem.Code)
	_, err = json.Marshal(problem)
	require.NoError(t, err)
}
