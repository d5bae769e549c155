package gatewaytest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Stored reads all files below a folder.
func Stored(t *testing.T, root string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[path] = string(content)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

// AwaitRecords waits until so many tokens are in the storage, and nothing is being written. If Caddy uses the storage as
// well, it notes there at any time when it has cleaned up.
func AwaitRecords(t *testing.T, root string, want int) {
	t.Helper()
	Await(t, "the tokens are stored", func() bool {
		files := Stored(t, root)
		delete(files, filepath.Join(root, "last_clean.json"))
		return files[filepath.Join(root, "oauth_cc/swept")] != "" && len(files) == want+1 // and no lock
	})
}
