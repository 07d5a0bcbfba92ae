package broker_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/shared/bus"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// putRow writes a row of LEASES as its owner would.
func (h *house) putRow(t *testing.T, key, value string) {
	t.Helper()
	_, err := h.admin.Publish(t.Context(), bus.Message{Subject: "$KV.LEASES." + key, Data: []byte(value)})
	require.NoError(t, err)
}

// TestProducerIsAcknowledged holds that a producer's event is stored once, that
// everybody hears it, and that the producer learns of it.
func TestProducerIsAcknowledged(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tail := h.connect(t, keys.User{Role: access.Tail, Tenant: "acme"})
	neighbor := h.connect(t, keys.User{Role: access.Tail, Tenant: "globex"})
	heard, err := tail.SubscribeSync("tenant.acme.>")
	require.NoError(t, err)
	silence, err := neighbor.SubscribeSync("tenant.globex.>")
	require.NoError(t, err)
	require.NoError(t, tail.Flush())
	require.NoError(t, neighbor.Flush())

	producer := h.connect(t, keys.User{Role: access.Producer, Tenant: "acme"})
	js, err := jetstream.New(producer.Conn)
	require.NoError(t, err)
	message := func() *nats.Msg {
		return &nats.Msg{Subject: "tenant.acme.event.run.started", Data: []byte("{}"), Header: nats.Header{nats.MsgIdHdr: {"one"}}}
	}
	first, err := js.PublishMsg(t.Context(), message())
	require.NoError(t, err)
	require.Equal(t, subjects.StreamEvents, first.Stream)
	second, err := js.PublishMsg(t.Context(), message())
	require.NoError(t, err)
	require.True(t, second.Duplicate)
	require.Equal(t, first.Sequence, second.Sequence)
	msg, err := heard.NextMsg(patience)
	require.NoError(t, err)
	require.Equal(t, "tenant.acme.event.run.started", msg.Subject)
	require.NoError(t, neighbor.Flush())
	pending, _, err := silence.Pending()
	require.NoError(t, err)
	require.Zero(t, pending)
}

// TestProducerCannotHaveRowsWritten holds that where a producer asks its
// acknowledgement to go is of no consequence: the server does not check that,
// and an account of its own keeps it away from rows.
func TestProducerCannotHaveRowsWritten(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	key := subjects.LeaseKey("globex", "a1", leaseID)
	h.putRow(t, key, "good")
	producer := h.connect(t, keys.User{Role: access.Producer, Tenant: "acme"})
	require.NoError(t, producer.PublishRequest("tenant.acme.event.run.started", "$KV.LEASES."+key, []byte("forged")))
	// The one that follows is acknowledged after it.
	js, err := jetstream.New(producer.Conn)
	require.NoError(t, err)
	ack, err := js.Publish(t.Context(), "tenant.acme.event.run.started", nil)
	require.NoError(t, err)
	require.Equal(t, uint64(2), ack.Sequence)
	require.NoError(t, h.admin.NC().Flush())
	require.Equal(t, "good", h.row(t, key))
}

// TestGatewayCannotChooseRows holds that of all that a gateway may ask the
// server for, no answer that is directed at a row says what the gateway wants. NB:
// the server checks nowhere where an answer goes, so it can be made to overwrite a
// row with an answer of its own; SECURITY.md says so.
func TestGatewayCannotChooseRows(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	key := subjects.LeaseKey("acme", "a1", leaseID)
	row := "$KV.LEASES." + key
	gateway := h.connect(t, keys.User{Role: access.Gateway, Name: own})
	js, err := jetstream.New(gateway.Conn)
	require.NoError(t, err)
	forged := `{"state":"GRANTED"}`
	ack, err := js.Publish(t.Context(), "tenant.acme.event.run.started", []byte(forged))
	require.NoError(t, err)
	_, err = js.CreateConsumer(t.Context(), subjects.StreamEvents, jetstream.ConsumerConfig{Name: "mine", AckPolicy: jetstream.AckNonePolicy})
	require.NoError(t, err)

	require.NoError(t, gateway.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.EVENTS.mine", row, []byte("1")))
	question, err := json.Marshal(map[string]uint64{"seq": ack.Sequence})
	require.NoError(t, err)
	require.NoError(t, gateway.PublishRequest("$JS.API.STREAM.MSG.GET.EVENTS", row, question))
	for _, subject := range []string{"$JS.API.DIRECT.GET.EVENTS", "$JS.API.DIRECT.GET.EVENTS.tenant.acme.event.run.started"} {
		require.NoError(t, gateway.PublishRequest(subject, row, question))
		require.True(t, gateway.refused(t, subject))
	}
	_, err = js.CreatePushConsumer(t.Context(), subjects.StreamEvents, jetstream.ConsumerConfig{
		Name: "pushed", AckPolicy: jetstream.AckNonePolicy, DeliverSubject: row,
	})
	require.NoError(t, err, "the server takes it, and nobody listens there")
	// The answer to the second request lands on the row, and shows that the server
	// has been through the first. If it ever does not, NATS has begun to check where
	// answers go, and SECURITY.md has less to say.
	require.Eventually(t, func() bool { return strings.Contains(h.row(t, key), "stream_msg_get_response") }, patience, 5*time.Millisecond)
	require.NotEqual(t, forged, h.row(t, key))
}

// TestTailSaysNothing holds that a tail can neither speak nor answer.
func TestTailSaysNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tail := h.connect(t, keys.User{Role: access.Tail, Tenant: "acme"})
	heard, err := tail.SubscribeSync("tenant.acme.>")
	require.NoError(t, err)
	require.NoError(t, tail.Flush())
	asked := make(chan error, 1)
	go func() {
		_, err := h.admin.NC().Request("tenant.acme.unheard.of", nil, 200*time.Millisecond)
		asked <- err
	}()
	msg, err := heard.NextMsg(patience)
	require.NoError(t, err)
	require.NoError(t, msg.Respond([]byte("me")))
	require.True(t, tail.refused(t, msg.Reply))
	require.ErrorIs(t, <-asked, nats.ErrTimeout)
}
