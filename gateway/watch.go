package gateway

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long files must be left alone before they are read: a certificate and its key
	// are two files.
	settle = 200 * time.Millisecond
	// restless is when they are read all the same: others may write to the folder all the time.
	restless = 10 * settle
	// glance is how often they are read without a notice. The system gives none for a single
	// file that is mounted into a container, and none when a link further up in the path is
	// swapped.
	glance = 30 * time.Second
)

// watch calls reload when one of the files may have changed, and each time every, until ctx
// ends. It watches their folders, because Kubernetes swaps a symlink there and an editor
// replaces the file. reload must find out by itself whether something has changed. files is
// asked again after it.
func watch(ctx context.Context, log *slog.Logger, every time.Duration, files func() []string, reload func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("no notice of changed files; they are read every 30 s", "err", err)
		w = &fsnotify.Watcher{} // its channels are nil
	} else {
		defer w.Close()
	}
	watched := map[string]bool{}
	follow := func() {
		if err == nil {
			watched = followFolders(w, watched, folders(files()), log)
		}
	}
	follow()
	often := time.NewTicker(every)
	defer often.Stop()
	quiet := time.NewTimer(settle) // for what has changed since the files were first read
	defer quiet.Stop()
	first := time.Now() // of the changes after which they were not read yet; zero: there is none
	changed := func() {
		if first.IsZero() {
			first = time.Now()
		}
		if time.Since(first) < restless {
			quiet.Reset(settle)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.Events:
			changed()
			continue
		case <-w.Errors: // an overflow
			changed()
			continue
		case <-quiet.C:
			first = time.Time{}
		case <-often.C:
		}
		reload()
		follow()
	}
}

// folders returns the folders in which the files are, and in which they really are where they are
// symlinks.
func folders(files []string) map[string]bool {
	all := map[string]bool{}
	for _, file := range files {
		all[filepath.Dir(file)] = true
		if real, err := filepath.EvalSymlinks(file); err == nil {
			all[filepath.Dir(real)] = true
		}
	}
	return all
}

// followFolders makes w watch the wanted folders and no other, and returns those that it
// watches. One that cannot be watched is logged once.
func followFolders(w *fsnotify.Watcher, watched, wanted map[string]bool, log *slog.Logger) map[string]bool {
	for dir := range watched {
		if !wanted[dir] {
			w.Remove(dir) // an error means that it is gone
		}
	}
	for dir := range wanted {
		if watched[dir] {
			continue
		}
		if err := w.Add(dir); err != nil {
			log.Warn("no notice of files that change here; they are read every 30 s", "folder", dir, "err", err)
		}
	}
	return wanted
}
