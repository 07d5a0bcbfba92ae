package throttle_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"rollcall/scripts/throttle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestDrip has an endless sender: it gets through until the network drips.
func TestDrip(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	sent := make(chan int64, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			sent <- 0
			return
		}
		n, _ := io.Copy(conn, endless{})
		_ = conn.Close()
		sent <- n
	}()
	p, err := throttle.Listen(t.Context(), listener.Addr().String())
	require.NoError(t, err)
	peer, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	defer func() { _ = peer.Close() }()
	_, err = io.CopyN(io.Discard, peer, 1<<20)
	require.NoError(t, err)

	p.Drip(20 * time.Millisecond)
	// What is under way is bounded by buffers; behind it bytes come one by one.
	const few = 5
	var times []time.Time
	one := make([]byte, 1<<16)
	for len(times) < few {
		require.NoError(t, peer.SetReadDeadline(time.Now().Add(20*time.Second)))
		n, err := peer.Read(one)
		require.NoError(t, err)
		if n == 1 {
			times = append(times, time.Now())
		}
	}
	require.GreaterOrEqual(t, times[few-1].Sub(times[0]), 40*time.Millisecond)
	p.Close()
	<-sent
}

// endless never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
