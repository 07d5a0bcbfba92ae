package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the outcome of a run.
type Report struct {
	At          time.Time `json:"at"`
	CPUs        int       `json:"cpus"`
	Go          string    `json:"go"`
	Agents      int       `json:"agents"`
	Subscribers int       `json:"subscribers"`
	Listeners   int       `json:"listeners"`
	Rounds      int       `json:"rounds"`
	TurnMS      float64   `json:"turn_ms"`
	Lines       []Line    `json:"lines"`
	// Slow and Loss are absent when they were not measured.
	Slow *Slow `json:"slow,omitempty"`
	Loss *Loss `json:"gateway_loss,omitempty"`
	// Skipped says, by measure, why one was not taken.
	Skipped map[string]string `json:"skipped,omitempty"`
	TookMS  float64           `json:"took_ms"`
}

// Line is one line of the table.
type Line struct {
	// ID names the line for programs; it does not change with the settings.
	ID   string `json:"id"`
	Text string `json:"text"`
	// By is the figure that the table's ratio compares: p50, p99 or rate.
	By       string  `json:"by"`
	Rollcall Figures `json:"rollcall"`
	Raw      Figures `json:"raw"`
	Ratio    Ratio   `json:"ratio"`
}

// Slow is how many events were published until a reader of a byte per second was
// closed with 1008: what its queue holds, and what was on the way to it.
type Slow struct {
	Closed       int     `json:"closed"`
	MedianEvents float64 `json:"median_events"`
	MaxEvents    float64 `json:"max_events"`
}

// Loss is how long agents of a lost gateway are taken to be online.
type Loss struct {
	Agents   int     `json:"agents"`
	MedianMS float64 `json:"median_ms"`
	MaxMS    float64 `json:"max_ms"`
	// BoundMS is what is promised: gateway TTL + grace + 1 s.
	BoundMS float64 `json:"bound_ms"`
}

const (
	byP50  = "p50"
	byP99  = "p99"
	byRate = "rate"
)

func (l Line) ratio() float64 {
	switch l.By {
	case byRate:
		return l.Ratio.Rate
	case byP99:
		return l.Ratio.P99
	default:
		return l.Ratio.P50
	}
}

func (r Report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	return r.table(w)
}

func (r Report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(format string, a ...any) { _, _ = fmt.Fprintf(t, format+"\n", a...) } // kept for Flush
	line("measure\tp50 ms\tp99 ms\tper s\traw p50\traw p99\traw per s\tratio\t")
	for _, l := range r.Lines {
		line("%s\t%s\t%s\t%.0f\t%s\t%s\t%.0f\t%.1f by %s\t", l.Text,
			short(l.Rollcall.P50MS), short(l.Rollcall.P99MS), l.Rollcall.Rate,
			short(l.Raw.P50MS), short(l.Raw.P99MS), l.Raw.Rate, l.ratio(), l.By)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return r.remarks(w)
}

// remarks are what does not fit into columns.
func (r Report) remarks(w io.Writer) error {
	var b strings.Builder
	b.WriteString("\n")
	if s := r.Slow; s != nil {
		fmt.Fprintf(&b, "slow: %d readers of a byte per second closed with 1008, after %.0f events (median), %.0f (most)\n", s.Closed, s.MedianEvents, s.MaxEvents)
	}
	if l := r.Loss; l != nil {
		verdict := "within"
		if l.MaxMS > l.BoundMS {
			verdict = "OVER"
		}
		fmt.Fprintf(&b, "gateway-loss: %d agents seen offline %.2f s (median), %.2f s (last) after kill -9; %s the bound of %.2f s\n",
			l.Agents, l.MedianMS/1000, l.MaxMS/1000, verdict, l.BoundMS/1000)
	}
	for _, name := range runNames() {
		if why := r.Skipped[name]; why != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, why)
		}
	}
	fmt.Fprintf(&b, "%d agents, %d rounds of %.0f ms a side, %d CPUs, %s; took %.0f s\n",
		r.Agents, r.Rounds, r.TurnMS, r.CPUs, r.Go, r.TookMS/1000)
	_, err := io.WriteString(w, b.String())
	return err
}

// short keeps three digits of what is small.
func short(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}
