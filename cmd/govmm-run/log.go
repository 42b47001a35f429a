package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
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

// openLog opens the --log file, once. It is there after every call, as under runc, and empty if nothing went wrong.
func (a *app) openLog() (*os.File, error) {
	if a.log == "" || a.logFile != nil {
		return a.logFile, nil
	}
	f, err := os.OpenFile(a.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--log: %w", err)
	}
	a.logFile = f
	return f, nil
}

func (a *app) appendLog(err error) error {
	line := []byte(textEntry(err))
	if a.logFormat == "json" {
		var jsonErr error
		if line, jsonErr = jsonEntry(err); jsonErr != nil {
			return jsonErr
		}
	}
	f, openErr := a.openLog()
	if openErr != nil {
		return openErr
	}
	_, writeErr := f.Write(append(line, '\n'))
	return writeErr
}

// logger is for warnings and for what --debug shows; errors go through report. Only who asks for more gets more into the
// file: podman reads it as one object.
func (a *app) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: lowerLevel}
	if !a.debug {
		return slog.New(slog.NewTextHandler(os.Stderr, options))
	}
	options.Level = slog.LevelDebug
	to := os.Stderr
	if f, err := a.openLog(); err == nil && f != nil {
		to = f
	}
	if a.logFormat == "json" && a.log != "" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}

// lowerLevel writes levels as runc does.
func lowerLevel(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.LevelKey {
		a.Value = slog.StringValue(strings.ToLower(a.Value.String()))
	}
	return a
}
