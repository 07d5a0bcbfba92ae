package bench

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sampleReport() Report {
	return Report{
		At: time.Unix(1_900_000_000, 0).UTC(), CPUs: 2, Go: "go1.26", Agents: 256, Subscribers: 100, Rounds: 5, TurnMS: 1000, TookMS: 100_400,
		Lines: []Line{
			{
				ID: "connect.seen", Text: "connect, seen", By: byP50, Rollcall: Figures{P50MS: 2.5, P99MS: 12.25, Rate: 400},
				Raw: Figures{P50MS: 0.5, P99MS: 1, Rate: 2000}, Ratio: Ratio{P50: 5, P99: 12.25, Rate: 4},
			},
			{ID: "beacon", Text: "beacon, 64 connections", By: byRate, Rollcall: Figures{P50MS: 123.4, P99MS: 1, Rate: 3000}, Ratio: Ratio{P50: 9, Rate: 2.5}},
		},
		Loss:    &Loss{Agents: 256, MedianMS: 9300, MaxMS: 9456, BoundMS: 11_000},
		Skipped: map[string]string{"lease": notServed},
	}
}

func TestTableShowsEveryFigure(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, sampleReport().print(&out, false))
	lines := strings.Split(out.String(), "\n")
	require.Equal(t, strings.Fields("measure p50 ms p99 ms per s raw p50 raw p99 raw per s ratio"), strings.Fields(lines[0]))
	require.Equal(t, strings.Fields("connect, seen 2.50 12.2 400 0.50 1.00 2000 5.0 by p50"), strings.Fields(lines[1]))
	require.Equal(t, strings.Fields("beacon, 64 connections 123 1.00 3000 0.00 0.00 0 2.5 by rate"), strings.Fields(lines[2]))
	require.Contains(t, out.String(), "256 agents seen offline 9.30 s (median), 9.46 s (last) after kill -9; within the bound of 11.00 s")
	require.Contains(t, out.String(), "\nlease: not served by this version\n")
	require.Contains(t, out.String(), "256 agents, 5 rounds of 1000 ms a side, 2 CPUs, go1.26; took 100 s\n")
}

func TestTableCallsABrokenBound(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	r.Loss.MaxMS = r.Loss.BoundMS + 1
	var out bytes.Buffer
	require.NoError(t, r.print(&out, false))
	require.Contains(t, out.String(), "OVER the bound")
}

func TestDocumentIsOneLineThatReadsBack(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, sampleReport().print(&out, true))
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	var back Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Equal(t, sampleReport(), back)
}
