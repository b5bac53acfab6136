package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
)

// asideName is the folder for tables that the manifest does not name.
const asideName = "set-aside"

// checkFiles looks at Badger's files before Badger does, because Badger mends what it finds without asking: it deletes
// tables that a damaged or missing manifest does not name, and it crashes on a table whose index is garbled.
func checkFiles(dir string, opts badger.Options, used bool) error {
	return eachTable(dir, opts, used, checkTable)
}

// eachTable calls check for each table that the manifest names, until it fails. It sets the others aside if the manifest
// does not end as it should.
func eachTable(dir string, opts badger.Options, used bool, check func(path string) error) error {
	tables, data, err := listFiles(dir)
	if err != nil {
		return err
	}
	manifestPath := filepath.Join(dir, badger.ManifestFilename)
	f, err := os.Open(manifestPath)
	if errors.Is(err, fs.ErrNotExist) {
		if data || used {
			return damaged(manifestPath, nil, "the file is missing")
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer f.Close()
	manifest, end, err := badger.ReplayManifestFile(f, 0, opts)
	if err != nil {
		return damaged(manifestPath, err, "it is not readable")
	}
	for id := range manifest.Tables {
		path, ok := tables[id]
		if !ok {
			return damaged(table.NewFilename(id, dir), nil, "the file is missing")
		}
		if err := check(path); err != nil {
			return err
		}
		delete(tables, id)
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if end < info.Size() {
		// A power loss leaves a torn end, which Badger may drop; but damage looks the same, so keep what it would delete.
		return setAside(dir, tables)
	}
	return nil
}

// listFiles returns the tables by number, and whether there are files that hold data.
func listFiles(dir string) (tables map[uint64]string, data bool, err error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("open store: %w", err)
	}
	tables = map[uint64]string{}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		switch filepath.Ext(f.Name()) {
		case ".sst":
			data = true
			if id, ok := table.ParseFileID(f.Name()); ok {
				tables[id] = path
			}
		case ".mem", ".vlog":
			data = true
			// A kill between the making of a file and its allocation leaves it empty, and Badger refuses to open that.
			// Should it have held something, then load finds it missing.
			if info, err := f.Info(); err == nil && info.Size() == 0 {
				if err := os.Remove(path); err != nil {
					return nil, false, fmt.Errorf("open store: %w", err)
				}
			}
		}
	}
	return tables, data, nil
}

// setAside keeps a second link to each of the tables, which Badger is about to delete.
func setAside(dir string, tables map[uint64]string) error {
	if len(tables) == 0 {
		return nil
	}
	aside := filepath.Join(filepath.Dir(dir), asideName)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("set tables aside: %w", err)
	}
	for _, path := range tables {
		err := os.Link(path, filepath.Join(aside, filepath.Base(path)))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("set tables aside: %w", err)
		}
	}
	return nil
}

// badgerOptions bound Badger's memory and make it durable.
func badgerOptions(o *Options, dir string, g *guard) badger.Options {
	return badger.DefaultOptions(dir).
		WithLogger(badgerLog{log: o.Log, dir: o.Dir, need: o.tableBytes(), guard: g}).
		WithSyncWrites(true).
		WithDetectConflicts(false). // there is one writer
		WithMetricsEnabled(false).
		WithMemTableSize(o.memTable).
		WithValueThreshold(min(1<<20, o.memTable/8)).
		WithBaseTableSize(min(2<<20, o.memTable)).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(6).
		WithNumCompactors(2). // the least Badger takes
		WithNumGoroutines(1).
		WithValueLogFileSize(16 << 20). // mapped at twice its size; it stays empty (pieceBytes)
		WithCompression(options.None).  // none: tables are read through the mapping, and need no block cache
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithVerifyValueChecksum(true)
}

func firstLine(v any) string {
	line, _, _ := strings.Cut(strings.TrimSpace(fmt.Sprint(v)), "\n")
	return line
}
