package hostfs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// limitedLogger says each thing at most once a minute: a guest can cause any of them as often as it likes.
type limitedLogger struct {
	out  *slog.Logger
	mu   sync.Mutex
	last map[string]time.Time
}

func newLimitedLogger(out *slog.Logger) *limitedLogger {
	if out == nil {
		out = slog.New(slog.DiscardHandler)
	}
	return &limitedLogger{out: out, last: map[string]time.Time{}}
}

// once logs a warning unless the same key was logged within the last minute. Keys come from a bounded set.
func (l *limitedLogger) once(key, msg string, args ...any) {
	now := time.Now()
	l.mu.Lock()
	if now.Sub(l.last[key]) < time.Minute {
		l.mu.Unlock()
		return
	}
	l.last[key] = now
	l.mu.Unlock()
	l.out.Log(context.Background(), slog.LevelWarn, msg, args...)
}

// Write makes the logger a sink for go-fuse's own messages, all of which a guest can provoke.
func (l *limitedLogger) Write(p []byte) (int, error) {
	l.once("go-fuse", "a FUSE request made no sense", "detail", string(p))
	return len(p), nil
}
