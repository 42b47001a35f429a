package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// registers asks QEMU for the state of every virtual CPU, and of its interrupt controller: a CPU that waits for an
// interrupt which has come is the emulator's fault.
func registers(qmp *os.File, cpus int) (string, error) {
	if err := qmp.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	commands := []string{"info registers -a"}
	for cpu := range cpus {
		commands = append(commands, fmt.Sprintf("info lapic %d", cpu))
	}
	requests := `{"execute":"qmp_capabilities"}` + "\n"
	for _, c := range commands {
		requests += fmt.Sprintf(`{"execute":"human-monitor-command","arguments":{"command-line":%q}}`, c) + "\n"
	}
	if _, err := qmp.WriteString(requests); err != nil {
		return "", fmt.Errorf("qmp: %w", err)
	}
	d := json.NewDecoder(qmp)
	var all strings.Builder
	for range commands {
		text, err := readAnswer(d)
		if err != nil {
			return all.String(), err
		}
		all.WriteString(text)
	}
	return all.String(), nil
}

// readAnswer returns the next text; it skips the greeting, events, and the empty first answer.
func readAnswer(d *json.Decoder) (string, error) {
	for {
		var msg struct {
			Return json.RawMessage `json:"return"`
			Error  json.RawMessage `json:"error"`
		}
		if err := d.Decode(&msg); err != nil {
			return "", fmt.Errorf("qmp: %w", err)
		}
		if msg.Error != nil {
			return "", fmt.Errorf("qmp: %s", msg.Error)
		}
		var text string
		if msg.Return != nil && json.Unmarshal(msg.Return, &text) == nil {
			return text, nil
		}
	}
}
