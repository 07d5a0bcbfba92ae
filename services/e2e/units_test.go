package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestUnitsNeverGiveUp holds that systemd starts every service again however often it
// ends: by default five quick ends leave a unit failed for good.
func TestUnitsNeverGiveUp(t *testing.T) {
	t.Parallel()
	units, err := filepath.Glob(filepath.Join(repository, "deploy", "systemd", "*.service"))
	require.NoError(t, err)
	require.Len(t, units, 3)
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		require.NoError(t, err)
		head, service, found := strings.Cut(string(text), "\n[Service]\n")
		require.True(t, found, unit)
		require.Contains(t, head, "\nStartLimitIntervalSec=0\n", "%s: systemd reads it in [Unit] only", unit)
		require.Contains(t, service, "\nRestart=always\n", unit)
		require.Contains(t, service, "\nRestartSec=1\n", "%s: without a limit it must not spin", unit)
	}
}
