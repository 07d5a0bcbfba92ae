// Package broker runs a NATS server inside the process, in operator mode: it
// lets in whom an account of the operator vouches for, with the permissions of
// package access, and takes newer versions of the accounts while it runs. On its
// own, or as one of a cluster.
package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"rollcall/scripts/keys"
)

const (
	timeout = 20 * time.Second
	// patience is how often a start that goes nowhere is looked at.
	patience = 200 * time.Millisecond
	// syncEvery matters among several servers only.
	syncEvery = time.Minute
	// authTime is how long servers of a cluster may take to prove who they are.
	authTime = 5 * time.Second
)

// Config says how a server runs.
type Config struct {
	// Host is where it listens, on the three ports; -1 picks one.
	Host                       string
	Client, WebSocket, Monitor int
	// Store is the folder of its files, which nobody else may use.
	Store string
	// Ring vouches for whoever may connect.
	Ring *keys.Ring
	Log  zerolog.Logger
	// SyncAlways has every write on the disk before it is acknowledged.
	SyncAlways bool
	// Cluster is whom it belongs to; nil is a server on its own.
	Cluster *Cluster
}

// Cluster says how a server finds the others of its cluster.
type Cluster struct {
	// Name is the server's own, which no other has.
	Name string
	// Port is where the others find it, Routes where it finds them.
	Port   int
	Routes []int
	// Secret is what they let each other in by: who is let in as one of them is
	// believed everything.
	Secret string
}

const (
	clusterName = "rollcall"
	clusterUser = "node"
)

// Broker is a running server.
type Broker struct {
	server *server.Server
}

// Start runs a server and returns when clients can connect.
func Start(c Config) (*Broker, error) {
	b, err := start(c)
	if err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	return b, nil
}

func start(c Config) (*Broker, error) {
	options := &server.Options{
		ServerName: "rollcall", Host: c.Host, Port: c.Client,
		HTTPHost: c.Host, HTTPPort: c.Monitor,
		Websocket: server.WebsocketOpts{Host: c.Host, Port: c.WebSocket, NoTLS: true},
		JetStream: true, StoreDir: c.Store, SyncAlways: c.SyncAlways, NoSigs: true,
	}
	if c.Cluster != nil {
		join(options, c)
	} else if err := adopt(c.Store, c.Ring.Account()); err != nil {
		return nil, err
	}
	if err := trust(options, c); err != nil {
		return nil, err
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, err
	}
	journal := &journal{log: c.Log}
	s.SetLoggerV2(journal, false, false, false)
	s.Start()
	b := &Broker{server: s}
	err = ready(s, journal)
	if err == nil {
		// Else the account would get JetStream with its first client, and several
		// first ones would get in each other's way.
		_, err = s.LookupAccount(c.Ring.Account())
	}
	if err != nil {
		b.Stop()
		return nil, err
	}
	return b, nil
}

// join makes a server one of a cluster.
func join(options *server.Options, c Config) {
	options.ServerName = c.Cluster.Name
	options.Cluster = server.ClusterOpts{
		Name: clusterName, Host: c.Host, Port: c.Cluster.Port,
		Username: clusterUser, Password: c.Cluster.Secret, AuthTimeout: authTime.Seconds(),
	}
	for _, port := range c.Cluster.Routes {
		options.Routes = append(options.Routes, &url.URL{
			Scheme: "nats-route", User: url.UserPassword(clusterUser, c.Cluster.Secret), Host: net.JoinHostPort(c.Host, strconv.Itoa(port)),
		})
	}
}

// trust makes the operator's accounts the only ones. The server keeps them in a
// folder of its own, which is brought up to date here: what was changed while no
// server ran counts from the first connection on.
func trust(options *server.Options, c Config) error {
	text, err := c.Ring.OperatorJWT()
	if err != nil {
		return err
	}
	operator, err := jwt.DecodeOperatorClaims(text)
	if err != nil {
		return fmt.Errorf("read operator: %w", err)
	}
	accounts, err := c.Ring.AccountJWTs()
	if err != nil {
		return err
	}
	resolver, err := server.NewDirAccResolver(filepath.Join(c.Store, "accounts"), 0, syncEvery, server.NoDelete)
	if err != nil {
		return fmt.Errorf("open accounts: %w", err)
	}
	for public, account := range accounts {
		if err := resolver.Store(public, account); err != nil {
			return fmt.Errorf("store account: %w", err)
		}
	}
	options.TrustedOperators = []*jwt.OperatorClaims{operator}
	options.SystemAccount = c.Ring.SystemAccount()
	options.AccountResolver = resolver
	return nil
}

// adopt gives the account the streams of a time when the server knew no
// accounts. They lie in a folder named by whose they are.
func adopt(store, account string) error {
	before, after := filepath.Join(store, "jetstream", "$G"), filepath.Join(store, "jetstream", account)
	if _, err := os.Stat(after); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(before, after); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("adopt streams: %w", err)
	}
	return nil
}

// ready waits until clients can connect, or something is fatal.
func ready(s *server.Server, journal *journal) error {
	for begun := time.Now(); time.Since(begun) < timeout; {
		accepting := s.ReadyForConnections(patience)
		if err := journal.err(); err != nil {
			return err
		}
		if accepting {
			return nil
		}
	}
	return fmt.Errorf("not ready after %s", timeout)
}

// URL is where clients connect.
func (b *Broker) URL() string { return b.server.ClientURL() }

// WebSocketURL is where clients connect that can do nothing else.
func (b *Broker) WebSocketURL() string { return b.server.WebsocketURL() }

// Stop ends the server and waits until it has written everything.
func (b *Broker) Stop() {
	b.server.Shutdown()
	b.server.WaitForShutdown()
}
