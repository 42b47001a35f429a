package e2e

import (
	"encoding/json"
	"testing"
)

// TestNetworkCounters compares what events says of an interface with what passed.
func TestNetworkCounters(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 9)
	id := r.id()
	bundle := r.bundle(ns.joinRaw, "/bin/sh", "-c", "exec sleep 1000")
	r.run("run", "--detach", "--bundle", bundle, id).want(t, 0, "", "")
	read := func() (rx, tx uint64) {
		t.Helper()
		res := r.run("events", "--stats", id)
		var e struct {
			Data struct {
				Interfaces []map[string]any `json:"network_interfaces"`
			} `json:"data"`
		}
		if err := json.Unmarshal([]byte(res.out), &e); err != nil || len(e.Data.Interfaces) != 1 || e.Data.Interfaces[0]["Name"] != "eth0" {
			t.Fatalf("%v, %+v, %+v", err, e, res)
		}
		return uint64(e.Data.Interfaces[0]["RxBytes"].(float64)), uint64(e.Data.Interfaces[0]["TxBytes"].(float64))
	}
	rx, tx := read()
	ns.host("ping -c 5 -i 0.2 -s 1000 -W 5 10.88.9.2")
	rx2, tx2 := read()
	if least := uint64(5 * 1042); rx2-rx < least || tx2-tx < least || rx2-rx > 2*least || tx2-tx > 2*least {
		t.Errorf("5 pings of 1042 bytes were counted as %d received and %d sent", rx2-rx, tx2-tx)
	}
}
