package rollcall

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// What a terminal is told. With automatic wrapping off, a line that is too wide,
// for characters of double width, is cut instead of spoiling the screen.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// terminal is a display.
type terminal struct {
	painter

	file  *os.File
	width int
	tty   *os.File // where keys come from; nil without
	saved *term.State
	typed chan string
	done  chan struct{}
	read  sync.WaitGroup
}

// openTerminal takes the whole screen. Keys come from the controlling terminal, so
// that a pipe on stdin is no keyboard; without one there are none, and Ctrl-C ends.
func openTerminal(out *os.File, noColor bool) (*terminal, error) {
	t := &terminal{painter: painter{out: out, plain: noColor}, file: out, typed: make(chan string), done: make(chan struct{})}
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		if t.saved, err = term.MakeRaw(int(tty.Fd())); err != nil {
			_ = tty.Close()
			return nil, fmt.Errorf("set the terminal up: %w", err)
		}
		_ = tty.Close()
		// Asking for its descriptor made that file a blocking one. This one's reader
		// is ended by closing it.
		if t.tty, err = os.OpenFile("/dev/tty", os.O_RDONLY, 0); err != nil {
			t.restore()
			return nil, fmt.Errorf("open the terminal: %w", err)
		}
		t.read.Go(t.readKeys)
	}
	if _, err := io.WriteString(out, enterScreen); err != nil {
		t.close()
		return nil, fmt.Errorf("write to the terminal: %w", err)
	}
	return t, nil
}

// restore undoes raw mode.
func (t *terminal) restore() {
	if t.saved == nil {
		return
	}
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		_ = term.Restore(int(tty.Fd()), t.saved)
		_ = tty.Close()
	}
}

// close gives the screen back as it was.
func (t *terminal) close() {
	_, _ = io.WriteString(t.file, leaveScreen)
	t.restore()
	if t.tty == nil {
		return
	}
	close(t.done)
	_ = t.tty.Close()
	ended := make(chan struct{})
	go func() { defer close(ended); t.read.Wait() }()
	select {
	case <-ended:
	case <-time.After(100 * time.Millisecond):
		// NB: where a terminal cannot be polled, its reader ends with the process.
	}
}

func (t *terminal) size() (width, height int) {
	width, height, err := term.GetSize(int(t.file.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	if width != t.width {
		t.width, t.last = width, nil // a terminal may have moved what it showed
	}
	return width, height
}

func (t *terminal) keys() <-chan string { return t.typed }

func (t *terminal) readKeys() {
	buffer := make([]byte, 64)
	for {
		n, err := t.tty.Read(buffer)
		if err != nil {
			return
		}
		for _, key := range keysIn(string(buffer[:n])) {
			select {
			case t.typed <- key:
			case <-t.done:
				return
			}
		}
	}
}

// keysIn takes apart what a terminal sends. Sequences that mean nothing here are
// dropped whole, so that their letters are no keys.
func keysIn(text string) []string {
	names := map[string]string{
		"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b[5~": "pgup", "\x1b[6~": "pgdn",
		"\x1b[H": "home", "\x1b[F": "end", "\x1b[1~": "home", "\x1b[4~": "end", "\x03": "ctrl-c",
	}
	var out []string
	for text != "" {
		n := 1
		if strings.HasPrefix(text, "\x1b[") || strings.HasPrefix(text, "\x1bO") {
			n = len(text)
			if final := strings.IndexFunc(text[2:], func(r rune) bool { return r >= '@' && r <= '~' }); final >= 0 {
				n = 2 + final + 1
			}
		}
		switch name, known := names[text[:n]]; {
		case known:
			out = append(out, name)
		case n == 1 && text[0] >= ' ':
			out = append(out, text[:1])
		}
		text = text[n:]
	}
	return out
}

// painter writes the lines that differ from those written before.
type painter struct {
	out   io.Writer
	plain bool
	last  []string
}

func (p *painter) paint(lines []styled) error {
	next := make([]string, len(lines))
	for i, l := range lines {
		next[i] = p.dress(l)
	}
	if len(next) != len(p.last) {
		p.last = nil
	}
	var b strings.Builder
	if p.last == nil {
		b.WriteString("\x1b[2J")
	}
	for i, text := range next {
		if p.last == nil || p.last[i] != text {
			// Cleared first: behind the last column it would clear that column.
			fmt.Fprintf(&b, "\x1b[%d;1H\x1b[K%s", i+1, text)
		}
	}
	p.last = slices.Clone(next)
	_, err := io.WriteString(p.out, b.String())
	return err
}

func (p *painter) dress(l styled) string {
	codes := map[style]string{bold: "1", dim: "2", green: "32", cyan: "1;36", yellow: "33", alarm: "1;7;31"}
	var b strings.Builder
	for _, one := range l {
		if code := codes[one.style]; code != "" && !p.plain {
			b.WriteString("\x1b[" + code + "m" + one.text + "\x1b[0m")
			continue
		}
		b.WriteString(one.text)
	}
	return b.String()
}
