package file_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/internal/file"
)

func TestCreateKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, file.Create(path, []byte("one")))
	require.ErrorIs(t, file.Create(path, []byte("two")), fs.ErrExist)
	requireOnly(t, path, "one")
}

func TestReplace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, file.Replace(path, []byte("one")))
	require.NoError(t, file.Replace(path, []byte("two")))
	requireOnly(t, path, "two")
}

func TestNoDirectory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing", "token")
	require.ErrorIs(t, file.Replace(path, nil), fs.ErrNotExist)
}

// requireOnly checks content and mode, and that no temporary file is left.
func requireOnly(t *testing.T, path, want string) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(data))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)
}
