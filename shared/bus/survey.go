package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// MinServerVersion is the oldest NATS server that everything here is tested with.
// Schedules and markers of lapsed rows came with 2.12 at the latest; before 2.15 the
// bounds of what a stream accepts are others.
const MinServerVersion = "2.15.0"

// What is known of when a server has on its disk what it acknowledges. No client can
// ask for that, and so somebody has to say it.
const (
	SyncAlways   = "always"   // before it acknowledges
	SyncInterval = "interval" // some time later
	SyncUnknown  = "unknown"
)

// Survey is what a process found of NATS, when it started or since.
type Survey struct {
	// ServerVersion is that of the server it is connected to.
	ServerVersion string
	// Replicas is the least number of copies that a stream or bucket it uses has.
	Replicas int
	// Sync is what it was told.
	Sync string
	// Faults say in what NATS is less than what was asked for.
	Faults []string
	// Complete says that everything was looked at.
	Complete bool
}

// Survey looks at the server and at what was ensured on this connection, of which
// there shall be a number of copies each, and says in one line what it found. It
// stops nothing. Streams besides are looked at where they are there and may be.
func (c *Conn) Survey(ctx context.Context, replicas int, sync string, besides ...string) Survey {
	found := c.Look(ctx, replicas, sync, besides...)
	line := c.log.Info()
	if len(found.Faults) > 0 {
		line = c.log.Warn().Strs("faults", found.Faults)
	}
	line.Str("server_version", found.ServerVersion).Int("replicas", found.Replicas).Str("sync", sync).Msg("NATS surveyed")
	return found
}

// Look is [Conn.Survey] that says nothing.
func (c *Conn) Look(ctx context.Context, replicas int, sync string, besides ...string) Survey {
	found := Survey{ServerVersion: c.nc.ConnectedServerVersion(), Sync: sync, Complete: true}
	for _, a := range c.kept() {
		err := c.retry(ctx, func(ctx context.Context) error { return found.count(ctx, c, a.want.Name, replicas) })
		if err != nil {
			found.Complete = false
			found.Faults = append(found.Faults, fmt.Sprintf("%s was not looked at: %v", a.want.Name, err))
		}
	}
	for _, name := range besides {
		err := c.once(ctx, func(ctx context.Context) error { return found.count(ctx, c, name, replicas) })
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			c.log.Debug().Err(err).Str("stream", name).Msg("not looked at")
		}
	}
	switch {
	case found.ServerVersion == "":
		found.Complete = false // the connection went away meanwhile
	case older(found.ServerVersion, MinServerVersion):
		found.Faults = append(found.Faults, fmt.Sprintf("server %s is older than %s", found.ServerVersion, MinServerVersion))
	}
	slices.Sort(found.Faults)
	found.Faults = slices.Compact(found.Faults) // a server has copies of several streams
	return found
}

// count adds the copies of a stream.
func (s *Survey) count(ctx context.Context, c *Conn, name string, replicas int) error {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	s.Faults = append(s.Faults, away(info.Cluster)...)
	has := info.Config.Replicas
	if s.Replicas == 0 || has < s.Replicas {
		s.Replicas = has
	}
	if has < replicas {
		s.Faults = append(s.Faults, fmt.Sprintf("%s has %d replicas, not %d", name, has, replicas))
	}
	return nil
}

// awayAfter is for how long a server's copy may not be heard of by its leader.
const awayAfter = 10 * time.Second

// away names the servers whose copies a stream's leader does not hear of.
func away(cluster *jetstream.ClusterInfo) (out []string) {
	if cluster == nil {
		return nil
	}
	for _, peer := range cluster.Replicas {
		if peer.Offline || !peer.Current && peer.Active > awayAfter {
			out = append(out, fmt.Sprintf("server %s is away", peer.Name))
		}
	}
	return out
}

// older compares versions such as 2.15.2 or v2.16.0-RC.1 by their numbers. One that
// is no such version is taken to be older.
func older(version, than string) bool {
	have, ok := numbers(version)
	least, _ := numbers(than)
	if !ok {
		return true
	}
	for i := range have {
		if have[i] != least[i] {
			return have[i] < least[i]
		}
	}
	return false
}

func numbers(version string) (out [3]int, ok bool) {
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "v"), "-")
	parts := strings.Split(version, ".")
	if len(parts) != len(out) {
		return out, false
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return out, false
		}
		out[i] = n
	}
	return out, true
}
