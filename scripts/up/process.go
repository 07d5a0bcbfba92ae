package up

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// process is one child.
type process struct {
	name string
	// url is where it is reached, and probe what answers 200 when it is ready.
	url, probe string
	cmd        *exec.Cmd
	// again starts it once more on another port; nil where that cannot be.
	again func(port int) (*process, error)
	// log is the file it writes to, from offset on.
	log    string
	offset int64
	// exited is closed when it has ended; cmd.ProcessState is set by then.
	exited chan struct{}
}

func openLog(dir, name string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return file, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// readyEvery is how often a process that starts is asked.
const readyEvery = 25 * time.Millisecond

// ready waits until the process answers 200.
func (p *process) ready(ctx context.Context) error {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		last := p.ask(ctx)
		if last == "" && p.alive() {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s (pid %d) ended while starting: %s", p.name, p.pid(), p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("%s (pid %d) is not ready: %s: %w", p.name, p.pid(), last, ctx.Err())
		case <-tick.C:
		}
	}
}

// ask returns what keeps the process from being ready, empty when nothing does.
func (p *process) ask(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.probe, http.NoBody)
	if err != nil {
		return err.Error()
	}
	request.Close = true // an idle connection would only be in the way of a stop
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "no answer"
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 512))
	if err != nil {
		return response.Status
	}
	var who struct {
		PID int `json:"pid"`
	}
	// Somebody else may have taken the port after it was found free.
	if json.Unmarshal(body, &who) == nil && who.PID != 0 && who.PID != p.pid() {
		return fmt.Sprintf("process %d answers at %s", who.PID, p.url)
	}
	if response.StatusCode == http.StatusOK {
		return ""
	}
	return response.Status + " " + string(bytes.TrimSpace(body))
}

const (
	lastBytes = 8 << 10
	lastCount = 10
)

// lastLines returns what the process wrote last, indented.
func (p *process) lastLines() string {
	file, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return ""
	}
	from := max(p.offset, info.Size()-lastBytes)
	text, err := io.ReadAll(io.NewSectionReader(file, from, lastBytes))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines = lines[max(0, len(lines)-lastCount):]
	return "    " + strings.Join(lines, "\n    ")
}
