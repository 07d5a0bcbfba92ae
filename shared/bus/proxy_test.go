package bus_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

// proxy stands between a client and a server and can lose what the server says.
type proxy struct {
	ln     net.Listener
	target string
	deaf   atomic.Bool // bytes from the server vanish

	mu    sync.Mutex
	conns []net.Conn
	all   sync.WaitGroup
}

func newProxy(t *testing.T, url string) *proxy {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{ln: ln, target: strings.TrimPrefix(url, "nats://")}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.cut()
		p.all.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		server, err := net.DialTimeout("tcp", p.target, time.Second)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.all.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
		p.all.Go(func() { p.answer(client, server) })
	}
}

// answer copies from the server, or loses it.
func (p *proxy) answer(client, server net.Conn) {
	defer func() { _ = client.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if p.deaf.Load() {
			continue
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// A server that has sent a message believes it delivered. What the network
// lost must come again although nothing else happens.
func TestFollowersGetWhatTheNetworkLost(t *testing.T) {
	t.Parallel()
	srv := bustest.Start(t)
	direct := srv.Connect(t)
	rows := newBucket(t, direct, time.Minute)
	events(t, direct)
	p := newProxy(t, srv.URL())
	conn, err := bus.Connect(t.Context(), bus.Options{URL: "nats://" + p.ln.Addr().String(), Log: zerolog.Nop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	far, err := conn.Bucket(t.Context(), "ROWS")
	require.NoError(t, err)

	var seen log
	tp, _ := watch(t, far, "")
	start(t, func(ctx context.Context) error {
		return conn.Read(ctx, "EVENTS", nil, 1, func(d *bus.Delivery) { seen.add("%s", d.Data) })
	})
	publish(t, direct, "ev.a", "start")
	want, told := []string{"synced"}, []string{"start"}
	rev := uint64(0)
	for i := range 3 {
		seen.expect(t, told...)
		tp.expect(t, want...)
		heard := len(want)
		p.deaf.Store(true)
		rev = save(t, rows, "a", fmt.Sprint(i), rev, 0)
		publish(t, direct, "ev.a", fmt.Sprint("lost", i))
		require.Never(t, func() bool { return len(tp.read()) > heard }, 100*time.Millisecond, tick)
		p.cut()
		p.deaf.Store(false)
		want, told = append(want, fmt.Sprint("a=", i)), append(told, fmt.Sprint("lost", i))
	}
	seen.expect(t, told...)
	tp.expect(t, want...)
}

// A publish whose acknowledgement is lost is sent again and stored once.
func TestPublishSurvivesALostAck(t *testing.T) {
	t.Parallel()
	srv := bustest.Start(t)
	direct := srv.Connect(t)
	events(t, direct)
	rows := newBucket(t, direct, time.Minute)
	p := newProxy(t, srv.URL())
	conn, err := bus.Connect(t.Context(), bus.Options{URL: "nats://" + p.ln.Addr().String(), Log: zerolog.Nop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	far, err := conn.Bucket(t.Context(), "ROWS")
	require.NoError(t, err)

	p.deaf.Store(true)
	saved, published := make(chan error, 1), make(chan bus.Ack, 1)
	go func() {
		_, err := far.Save(t.Context(), "a", []byte("1"), 0, 0)
		saved <- err
	}()
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		ack, _ := conn.Publish(ctx, bus.Message{Subject: "ev.a", ID: "x"}) // the ack below says it
		published <- ack
	}()
	require.Eventually(t, func() bool {
		s, err := direct.JS().Stream(t.Context(), "EVENTS")
		row, err2 := rows.Get(t.Context(), "a")
		return err == nil && err2 == nil && s.CachedInfo().State.LastSeq == 1 && row.Exists
	}, soon, tick)
	p.cut()
	p.deaf.Store(false)
	require.Equal(t, bus.Ack{Seq: 1, Duplicate: true}, <-published)
	require.ErrorIs(t, <-saved, bus.ErrUnavailable) // it was stored; only reading tells
}

// A server that says nothing any more and closes nothing is left for another one, long
// before a gateway that cannot renew its row is taken to be lost.
func TestSilentServerIsLeft(t *testing.T) {
	t.Parallel()
	srv := bustest.Start(t)
	events(t, srv.Connect(t))
	proxies := map[string]*proxy{}
	var urls []string
	for range 2 {
		p := newProxy(t, srv.URL())
		proxies[p.ln.Addr().String()] = p
		urls = append(urls, "nats://"+p.ln.Addr().String())
	}
	conn, err := bus.Connect(t.Context(), bus.Options{URL: strings.Join(urls, ","), Log: zerolog.Nop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	silent := conn.NC().ConnectedAddr()
	require.Contains(t, proxies, silent)

	began := time.Now()
	proxies[silent].deaf.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	_, err = conn.Publish(ctx, bus.Message{Subject: "ev.a", ID: "x"})
	require.NoError(t, err)
	require.NotEqual(t, silent, conn.NC().ConnectedAddr())
	t.Logf("stored through the other one after %s", time.Since(began).Round(time.Millisecond))
}
