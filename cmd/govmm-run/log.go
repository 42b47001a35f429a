package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// textEntry is one line in the form that runc's users grep for.
func textEntry(err error) string {
	return fmt.Sprintf("time=%q level=error msg=%q", time.Now().UTC().Format(time.RFC3339), err.Error())
}

// jsonEntry is what containerd's shim and podman read: containerd takes the last entry whose level is "error", podman
// unmarshals the whole file as one object, so there is never more than one line.
func jsonEntry(err error) ([]byte, error) {
	return json.Marshal(struct {
		Level string `json:"level"`
		Msg   string `json:"msg"`
		Time  string `json:"time"`
	}{"error", err.Error(), time.Now().UTC().Format(time.RFC3339)})
}

func (a *app) appendLog(err error) error {
	line := []byte(textEntry(err))
	if a.logFormat == "json" {
		var jsonErr error
		if line, jsonErr = jsonEntry(err); jsonErr != nil {
			return jsonErr
		}
	}
	f, openErr := os.OpenFile(a.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if openErr != nil {
		return fmt.Errorf("--log: %w", openErr)
	}
	defer f.Close()
	_, writeErr := f.Write(append(line, '\n'))
	return writeErr
}

// logger is for what --debug shows; errors go through report.
func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	if a.debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
