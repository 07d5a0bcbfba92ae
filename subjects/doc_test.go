package subjects_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryPackageHasADoc reads the package clause of every file of the module
// and asks that each folder holds one with a comment.
func TestEveryPackageHasADoc(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			return err
		}
		folder := filepath.Dir(path)
		documented[folder] = documented[folder] || strings.HasPrefix(file.Doc.Text(), "Package "+file.Name.Name+" ")
		return nil
	})
	require.NoError(t, err)
	require.Contains(t, documented, ".")
	for folder, ok := range documented {
		require.True(t, ok, "%s has no package comment", folder)
	}
}
