package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fromLeader asks the leader of a stream, once, for the message that a question
// names. The error Is [jetstream.ErrMsgNotFound] where there is none.
func (c *Conn) fromLeader(ctx context.Context, stream string, question map[string]any) (*jetstream.RawStreamMsg, error) {
	data, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	reply, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, data)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, jetstream.ErrMsgNotFound
	case answer.Error != nil:
		return nil, answer.Error
	case answer.Message == nil:
		return nil, fmt.Errorf("read answer: %w", nats.ErrInvalidMsg)
	}
	found := answer.Message
	msg := &jetstream.RawStreamMsg{Subject: found.Subject, Sequence: found.Sequence, Data: found.Data, Time: found.Time}
	if len(found.Header) > 0 {
		if msg.Header, err = nats.DecodeHeadersMsg(found.Header); err != nil {
			return nil, fmt.Errorf("read headers: %w", err)
		}
	}
	return msg, nil
}
