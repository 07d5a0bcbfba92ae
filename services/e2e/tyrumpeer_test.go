package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/client"
)

// tyrumPeer is a client of tyrum-v1. Its readers refuse a key that they do not know.
type tyrumPeer struct {
	*rawSocket

	key    ed25519.PrivateKey
	device string
	asked  int
	// seen counts the events by their id; it outlives the socket, as that client's does.
	seen map[string]int
	// waiting are events about devices that came while something else was awaited.
	waiting []tyrumNews
}

// tyrumNews is an event about a device: its entry, or that it is pruned.
type tyrumNews struct {
	Entry      *tyrumEntry `json:"entry"`
	InstanceID string      `json:"instance_id"`
}

type tyrumEntry struct {
	InstanceID       string         `json:"instance_id"`
	Role             string         `json:"role"`
	Host             string         `json:"host"`
	IP               string         `json:"ip"`
	Version          string         `json:"version"`
	Mode             string         `json:"mode"`
	LastSeenAt       time.Time      `json:"last_seen_at"`
	LastInputSeconds *int64         `json:"last_input_seconds"`
	Reason           string         `json:"reason"`
	Metadata         map[string]any `json:"metadata"`
}

// connected is whether the entry is of a device that is there.
func (e tyrumEntry) connected() bool {
	connected, said := e.Metadata["connected"].(bool)
	return connected || !said
}

// strict reads a closed object.
func strict(t *testing.T, data []byte, into any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(into), "%s", data)
}

// tyrum connects a client of tyrum-v1, or the one it was before once more.
func (s *stack) tyrum(t *testing.T, g gateway, grant token.Grant, before *tyrumPeer) *tyrumPeer {
	t.Helper()
	text, err := s.mint(grant)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, answer, err := websocket.Dial(ctx, g.WSURL, &websocket.DialOptions{ //nolint:bodyclose // the library closes it
		Subprotocols: []string{"tyrum-v1", "tyrum-auth." + base64.RawURLEncoding.EncodeToString([]byte(text))},
	})
	require.NoError(t, err)
	require.Equal(t, []string{"tyrum-v1"}, answer.Header[http.CanonicalHeaderKey("Sec-WebSocket-Protocol")])
	conn.SetReadLimit(1 << 20)
	p := &tyrumPeer{rawSocket: &rawSocket{t: t, conn: conn, frames: make(chan []byte, 1024)}, key: newKey(t), seen: map[string]int{}}
	if before != nil {
		p.key, p.seen = before.key, maps.Clone(before.seen)
	}
	p.device = client.DeviceID(public(p.key))
	go func() {
		defer close(p.frames)
		for {
			_, data, err := conn.Read(context.Background())
			if err != nil {
				p.err = err
				return
			}
			leaks.frame(data)
			p.frames <- data
		}
	}()
	t.Cleanup(func() { _ = conn.CloseNow() })
	p.prove()
	return p
}

// prove goes through the handshake.
func (p *tyrumPeer) prove() {
	p.t.Helper()
	var c challenge
	strict(p.t, p.request("connect.init", initOf(p.key, nil, map[string]any{"label": "box", "mode": "ui"})), &c)
	text := fmt.Sprintf("tyrum-connect-proof\nprotocol_rev=2\nrole=client\ndevice_id=%s\nconnection_id=%s\nchallenge=%s\n",
		p.device, c.ConnectionID, c.Challenge)
	proof := base64.RawURLEncoding.EncodeToString(ed25519.Sign(p.key, []byte(text)))
	result := p.request("connect.proof", map[string]any{"connection_id": c.ConnectionID, "proof": proof})
	require.JSONEq(p.t, fmt.Sprintf(`{"client_id":%q,"device_id":%q,"role":"client"}`, c.ConnectionID, p.device), string(result))
	require.Empty(p.t, p.waiting)
}

// request asks and returns the result; events that come before it wait.
func (p *tyrumPeer) request(kind string, payload any) json.RawMessage {
	p.t.Helper()
	p.asked++
	id := fmt.Sprintf("r%d", p.asked)
	data, err := json.Marshal(map[string]any{"request_id": id, "type": kind, "payload": payload})
	require.NoError(p.t, err)
	p.text(string(data))
	for {
		data := p.take()
		if !bytes.Contains(data, []byte(`"ok":`)) {
			p.hear(data)
			continue
		}
		var a struct {
			RequestID string          `json:"request_id"`
			Type      string          `json:"type"`
			OK        bool            `json:"ok"`
			Result    json.RawMessage `json:"result"`
		}
		strict(p.t, data, &a)
		require.True(p.t, a.OK)
		require.Equal(p.t, id, a.RequestID)
		return a.Result
	}
}

// hear reads an event about a device.
func (p *tyrumPeer) hear(data []byte) {
	p.t.Helper()
	var e struct {
		EventID    string          `json:"event_id"`
		Type       string          `json:"type"`
		OccurredAt string          `json:"occurred_at"`
		Payload    json.RawMessage `json:"payload"`
	}
	strict(p.t, data, &e)
	require.True(p.t, strings.HasSuffix(e.OccurredAt, "Z"))
	p.seen[e.EventID]++
	require.Equal(p.t, 1, p.seen[e.EventID], "an event came twice: %s", data)
	var news tyrumNews
	strict(p.t, e.Payload, &news)
	require.Equal(p.t, e.Type == "presence.upserted", news.Entry != nil)
	p.waiting = append(p.waiting, news)
}

// take waits for the next frame.
func (p *tyrumPeer) take() []byte {
	p.t.Helper()
	select {
	case data, open := <-p.frames:
		if !open {
			require.Fail(p.t, "the socket is closed", "%v", p.err)
		}
		return data
	case <-time.After(patience):
		require.Fail(p.t, "no frame")
		return nil
	}
}

// about waits for the next news of a device.
func (p *tyrumPeer) about(device string) tyrumNews {
	p.t.Helper()
	for {
		for len(p.waiting) == 0 {
			p.hear(p.take())
		}
		news := p.waiting[0]
		p.waiting = p.waiting[1:]
		if news.InstanceID == device || news.Entry != nil && news.Entry.InstanceID == device {
			return news
		}
	}
}

// entry waits for the next entry of a device.
func (p *tyrumPeer) entry(device string) tyrumEntry {
	p.t.Helper()
	news := p.about(device)
	require.NotNil(p.t, news.Entry)
	return *news.Entry
}

// back waits until a device reads as connected.
func (p *tyrumPeer) back(device string) tyrumEntry {
	p.t.Helper()
	for {
		if news := p.about(device); news.Entry != nil && news.Entry.connected() {
			return *news.Entry
		}
	}
}
