package bench

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rollcall/shared/bus"
)

// place is where NATS is, and who the bench is there: the operator of a stack's
// own server, nobody on another's.
type place struct{ url, creds string }

// connect opens a plain connection.
func (p place) connect(name string) (*nats.Conn, error) {
	opts := []nats.Option{nats.Name(name)}
	if p.creds != "" {
		opts = append(opts, nats.UserCredentials(p.creds))
	}
	return nats.Connect(p.url, opts...)
}

// bus opens one as the services do.
func (p place) bus(ctx context.Context, name string) (*bus.Conn, error) {
	return bus.Connect(ctx, bus.Options{URL: p.url, Name: name, CredsFile: p.creds, Log: zerolog.Nop()})
}
