package gateway

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// next reads a frame: an event, an answer or a request of the gateway; two are nil.
func (c *tyrumClient) next() (event *tyrumSeen, answer *tyrumAnswer, asked *frame, err error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	kind, data, err := c.conn.Read(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	require.Equal(c.t, websocket.MessageText, kind)
	event, answer, asked = c.read(data)
	switch {
	case event != nil:
		c.came = append(c.came, event.Type)
		if c.seen[event.EventID] {
			c.repeated = append(c.repeated, event.raw)
		}
		c.seen[event.EventID] = true
		if event.Type == subjects.TypePresenceUpserted {
			c.told = append(c.told, *event)
		}
	case answer != nil:
		c.came = append(c.came, answer.RequestID)
	}
	return event, answer, asked, nil
}

// read holds a frame against the closed object that it must be.
func (c *tyrumClient) read(data []byte) (*tyrumSeen, *tyrumAnswer, *frame) {
	c.t.Helper()
	var members map[string]json.RawMessage
	require.NoError(c.t, json.Unmarshal(data, &members))
	switch {
	case members["event_id"] != nil:
		e := exactly[tyrumSeen](c.t, data, "event_id", "type", "occurred_at", "payload")
		require.Regexp(c.t, tyrumTime, e.OccurredAt)
		e.raw = string(data)
		return &e, nil, nil
	case members["ok"] != nil:
		a := exactly[tyrumAnswer](c.t, data, "request_id", "type", "ok")
		require.Equal(c.t, a.OK, a.Error == nil, "%s", data)
		a.raw = string(data)
		return nil, &a, nil
	default:
		f := exactly[struct {
			RequestID string          `json:"request_id"`
			Type      string          `json:"type"`
			Payload   json.RawMessage `json:"payload"`
		}](c.t, data, "request_id", "type", "payload")
		return nil, nil, &frame{RequestID: f.RequestID, Type: f.Type, Payload: f.Payload}
	}
}

// response reads up to the response of a request and keeps the events.
func (c *tyrumClient) response(id string) tyrumAnswer {
	c.t.Helper()
	for {
		event, answer, _, err := c.next()
		require.NoError(c.t, err)
		if event != nil {
			c.events = append(c.events, *event)
		}
		if answer != nil {
			require.Equal(c.t, id, answer.RequestID)
			return *answer
		}
	}
}

// ok asks and expects a result.
func (c *tyrumClient) ok(kind string, payload any) tyrumAnswer {
	c.t.Helper()
	a := c.response(c.send(kind, payload))
	require.True(c.t, a.OK, a.raw)
	require.Equal(c.t, kind, a.Type)
	return a
}

// refused asks and expects an error of that code.
func (c *tyrumClient) refused(kind string, payload any, code string) tyrumAnswer {
	c.t.Helper()
	a := c.response(c.send(kind, payload))
	require.False(c.t, a.OK, a.raw)
	require.Equal(c.t, code, a.Error.Code, a.raw)
	require.NotEmpty(c.t, a.Error.Message)
	return a
}

// event returns the next event.
func (c *tyrumClient) event() tyrumSeen {
	c.t.Helper()
	if len(c.events) > 0 {
		e := c.events[0]
		c.events = c.events[1:]
		return e
	}
	event, answer, _, err := c.next()
	require.NoError(c.t, err)
	require.Nil(c.t, answer, "a response where an event was expected")
	require.NotNil(c.t, event, "a request where an event was expected")
	return *event
}

// asked reads up to the next request of the gateway.
func (c *tyrumClient) asked() frame {
	c.t.Helper()
	for {
		event, _, asked, err := c.next()
		require.NoError(c.t, err)
		if event != nil {
			c.events = append(c.events, *event)
		}
		if asked != nil {
			return *asked
		}
	}
}

// beacon sends one and returns the entry of its answer.
func (c *tyrumClient) beacon(payload map[string]any) tyrumSeenEntry {
	c.t.Helper()
	result := c.ok("presence.beacon", payload).Result
	return c.entry(exactly[struct {
		Entry json.RawMessage `json:"entry"`
	}](c.t, result, "entry").Entry)
}

// quiet asserts that no event is on its way: what was sent before a ping is answered
// comes before its answer.
func (c *tyrumClient) quiet() {
	c.t.Helper()
	c.ok("ping", map[string]any{})
	require.Empty(c.t, c.repeated)
	for _, e := range c.events {
		require.Fail(c.t, "an event that is not for this client", "%s got %s", c.device.id, e.raw)
	}
}

// requireClosed reads until the socket is closed and asserts how.
func (c *tyrumClient) requireClosed(code int, reason string) {
	c.t.Helper()
	for {
		event, _, _, err := c.next()
		if err == nil {
			if event != nil {
				c.events = append(c.events, *event)
			}
			continue
		}
		var closed websocket.CloseError
		require.True(c.t, errors.As(err, &closed), "%v", err)
		require.Equal(c.t, code, int(closed.Code), closed.Reason)
		require.Equal(c.t, reason, closed.Reason)
		return
	}
}

func (c *tyrumClient) leave() {
	c.t.Helper()
	_ = c.conn.Close(websocket.StatusNormalClosure, "client disconnect")
}
