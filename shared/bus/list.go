package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrTooMany says that a listing matches more than is listed at once.
var ErrTooMany = errors.New("too many rows to list at once")

const (
	// listBytes is after how many bytes the server breaks a listing off, for the
	// rest to be asked for: well below what a client takes in at once.
	listBytes = 8 << 20

	headerPending = "Nats-Num-Pending"
	headerThrough = "Nats-UpTo-Sequence"

	statusEnd      = "204"
	statusNone     = "404"
	statusTooMany  = "413"
	noneThere      = "No Results"
	statusNobody   = "503"
	subjectListing = "$JS.API.DIRECT.GET."
)

// listing is one request for rows.
type listing struct {
	Filters  []string `json:"multi_last"`
	From     uint64   `json:"seq,omitempty"`
	MaxBytes int      `json:"max_bytes"`
	through  uint64
}

// List reads the rows under the keys that one of the filters matches, oldest revision
// first, and says through which revision of the bucket they are complete; 0 where none
// matches. It costs the server no consumer. Any of several servers may answer: one that
// lags behind tells so by the revision.
// The error Is [ErrTooMany] when more than 1,024 rows match, and [ErrUnavailable] when
// no answer came.
func (b *KV) List(ctx context.Context, filters ...string) (rows []Entry, through uint64, err error) {
	return b.list(ctx, listBytes, filters...)
}

func (b *KV) list(ctx context.Context, most int, filters ...string) (rows []Entry, through uint64, err error) {
	ask := listing{MaxBytes: most}
	for _, filter := range filters {
		ask.Filters = append(ask.Filters, b.subject(filter))
	}
	err = b.conn.retry(ctx, func(ctx context.Context) error {
		rows, ask.From, ask.through = nil, 0, 0
		for more := true; more; {
			var part []Entry
			var err error
			if part, more, err = b.listPart(ctx, &ask); err != nil {
				return b.conn.sparing(bucketStream(b.name), err)
			}
			rows = append(rows, part...)
		}
		return nil
	})
	if err != nil {
		return nil, 0, sorted(err, "list rows of %s", b.name)
	}
	return latest(rows), ask.through, nil
}

// latest drops rows that were written again before all were listed, and those that
// are gone.
func latest(rows []Entry) []Entry {
	last := make(map[string]uint64, len(rows))
	for _, row := range rows {
		last[row.Key] = row.Revision
	}
	return slices.DeleteFunc(rows, func(row Entry) bool { return !row.Exists || last[row.Key] != row.Revision })
}

// listPart reads what the server sends at once, and moves the request on behind it.
func (b *KV) listPart(ctx context.Context, ask *listing) (rows []Entry, more bool, err error) {
	question, err := json.Marshal(ask)
	if err != nil {
		return nil, false, fmt.Errorf("encode question: %w", err)
	}
	inbox := b.conn.nc.NewInbox()
	answers, err := b.conn.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = answers.Unsubscribe() }() // fails only when the connection is gone
	if err := b.conn.nc.PublishRequest(subjectListing+bucketStream(b.name), inbox, question); err != nil {
		return nil, false, err
	}
	for last := uint64(0); ; {
		msg, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			return nil, false, err
		}
		if status := msg.Header.Get("Status"); status != "" {
			more, err = ask.ended(status, msg.Header, last)
			return rows, more, err
		}
		row, err := b.listed(msg)
		if err != nil {
			return nil, false, err
		}
		last = row.Revision
		rows = append(rows, row)
	}
}

// ended takes the server's last word on a request, behind the row that came last.
func (l *listing) ended(status string, header nats.Header, last uint64) (more bool, err error) {
	switch description := header.Get("Description"); {
	case status == statusTooMany:
		return false, ErrTooMany
	case status == statusNobody:
		return false, nats.ErrNoResponders
	case status == statusNone && description == noneThere && l.through == 0:
		return false, nil // it does not say through which revision that is so
	case status != statusEnd:
		// A row lapsed under the server's hands, say, or none of the rest is there.
		return false, fmt.Errorf("%w: %s %s", nats.ErrTimeout, status, description)
	}
	var sent, pending, through uint64
	if err := errors.Join(
		number(header, jetstream.LastSequenceHeader, &sent), number(header, headerPending, &pending), number(header, headerThrough, &through),
	); err != nil {
		return false, err
	}
	if sent != last {
		return false, fmt.Errorf("%w: the rows up to %d of %d came", nats.ErrTimeout, last, sent)
	}
	if through < l.through {
		// Of what another server has overwritten since, this one still has the revision
		// that was passed over.
		return false, fmt.Errorf("%w: the rest is of %d, what came before of %d", nats.ErrTimeout, through, l.through)
	}
	l.through = through
	// A row that is overwritten before the rest is read has a later revision then.
	l.From = sent + 1
	return pending > 0, nil
}

// listed is a row as a listing brings it.
func (b *KV) listed(msg *nats.Msg) (Entry, error) {
	subject := msg.Header.Get(jetstream.SubjectHeader)
	key, ours := strings.CutPrefix(subject, bucketPrefix(b.name))
	if !ours {
		return Entry{}, fmt.Errorf("%w: row on %q", nats.ErrInvalidMsg, subject)
	}
	row := Entry{Key: key}
	at, err := time.Parse(time.RFC3339Nano, msg.Header.Get(jetstream.TimeStampHeaer))
	if err = errors.Join(err, number(msg.Header, jetstream.SequenceHeader, &row.Revision)); err != nil {
		return Entry{}, err
	}
	row.Time = at
	if opOf(msg.Header) == Put {
		row.Exists, row.Value = true, msg.Data
	}
	return row, nil
}

func number(header nats.Header, name string, n *uint64) (err error) {
	*n, err = strconv.ParseUint(header.Get(name), 10, 64)
	if err != nil {
		return fmt.Errorf("%w: header %s: %w", nats.ErrInvalidMsg, name, err)
	}
	return nil
}
