package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// registers asks QEMU for the state of every virtual CPU.
func registers(qmp *os.File) (string, error) {
	if err := qmp.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	const requests = `{"execute":"qmp_capabilities"}
{"execute":"human-monitor-command","arguments":{"command-line":"info registers -a"}}
`
	if _, err := qmp.WriteString(requests); err != nil {
		return "", fmt.Errorf("qmp: %w", err)
	}
	return readRegisters(json.NewDecoder(qmp))
}

// readRegisters skips the greeting, events, and the empty first answer.
func readRegisters(d *json.Decoder) (string, error) {
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
