// Package file writes small private files so that a reader, or a start after a
// crash, sees the whole content or none. Every file gets mode 0600.
package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Create writes a file that is not there yet. One that is stays as it is, and
// the error Is [fs.ErrExist].
func Create(path string, data []byte) error {
	return put(path, data, os.Link)
}

// Replace writes a file in the place of whatever is there.
func Replace(path string, data []byte) error {
	return put(path, data, os.Rename)
}

// put writes a temporary file beside path and gives it the name at the end.
func put(path string, data []byte, name func(from, to string) error) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = temp.Write(data)
	if err == nil {
		err = temp.Sync()
	}
	if closed := temp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = name(temp.Name(), path)
	}
	// After a rename there is nothing left to remove.
	if gone := os.Remove(temp.Name()); err == nil && !errors.Is(gone, fs.ErrNotExist) {
		err = gone
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
