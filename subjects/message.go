package subjects

import "time"

// Types of the events about messages on their way between agents and people.
// They name messages and never hold what is written in them.
const (
	TypeTypingStarted             = "typing.started"
	TypeTypingStopped             = "typing.stopped"
	TypeMessageDelivered          = "message.delivered"
	TypeMessageFailed             = "message.failed"
	TypeMessageFormattingFallback = "message.formatting_fallback"
)

// Typing is the payload of typing.started and typing.stopped.
type Typing struct {
	ConversationID string `json:"conversation_id" schema:"ref"`
	// AgentID is who writes.
	AgentID string `json:"agent_id,omitempty" schema:"agent"`
	// ExpiresAt is when the sign goes away by itself.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// Validate refuses typing in no conversation.
func (p Typing) Validate() error {
	return first(checkRef("conversation_id", p.ConversationID), checkOptionalAgent(p.AgentID))
}

// MessageDelivered is the payload of message.delivered: the receipt of a
// message's channel.
type MessageDelivered struct {
	MessageID      string `json:"message_id" schema:"ref"`
	ConversationID string `json:"conversation_id,omitempty" schema:"ref"`
	// Channel is what carried it.
	Channel string `json:"channel,omitempty" schema:"text"`
	// ReceiptID is the channel's own name for the delivery.
	ReceiptID string `json:"receipt_id,omitempty" schema:"ref"`
}

// Validate refuses a receipt for nothing.
func (p MessageDelivered) Validate() error {
	return first(
		checkRef("message_id", p.MessageID),
		checkOptionalRef("conversation_id", p.ConversationID),
		CheckText("channel", p.Channel),
		checkOptionalRef("receipt_id", p.ReceiptID),
	)
}

// MessageFailed is the payload of message.failed: the receipt that says no.
type MessageFailed struct {
	MessageID      string   `json:"message_id" schema:"ref"`
	ConversationID string   `json:"conversation_id,omitempty" schema:"ref"`
	Channel        string   `json:"channel,omitempty" schema:"text"`
	Error          *Failure `json:"error,omitempty"`
}

// Validate refuses a receipt for nothing.
func (p MessageFailed) Validate() error {
	return first(
		checkRef("message_id", p.MessageID),
		checkOptionalRef("conversation_id", p.ConversationID),
		CheckText("channel", p.Channel),
		checkFailure(p.Error),
	)
}

// MessageFormattingFallback is the payload of message.formatting_fallback: a
// channel could not show the message as it was written.
type MessageFormattingFallback struct {
	MessageID      string `json:"message_id" schema:"ref"`
	ConversationID string `json:"conversation_id,omitempty" schema:"ref"`
	Channel        string `json:"channel,omitempty" schema:"text"`
	// From and To are formats: markdown, html, plain.
	From   string `json:"from,omitempty" schema:"text"`
	To     string `json:"to,omitempty" schema:"text"`
	Reason string `json:"reason,omitempty" schema:"prose"`
}

// Validate refuses a fallback of nothing.
func (p MessageFormattingFallback) Validate() error {
	return first(
		checkRef("message_id", p.MessageID),
		checkOptionalRef("conversation_id", p.ConversationID),
		CheckText("channel", p.Channel),
		CheckText("from", p.From),
		CheckText("to", p.To),
		checkProse("reason", p.Reason),
	)
}
