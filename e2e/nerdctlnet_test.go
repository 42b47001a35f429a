package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// nerdctlNetworkConf has nerdctl use Debian's CNI plugins.
const nerdctlNetworkConf = `data_root = "%[1]s/nerdctl"
cgroup_manager = "cgroupfs"
cni_path = "/usr/lib/cni"
cni_netconfpath = "%[1]s/cni.d"
`

const nerdctlNetworkPrelude = networkPrelude + `
export NERDCTL_TOML=$PWD/nerdctl.toml
run() { nerdctl run --runtime "$BIN/$RUNTIME" -v "$BIN/client:/client" "$@"; }
`

// nerdctlNetworkSteps is what people do with nerdctl's networks: CNI's plugins, started by hooks of the runtime.
var nerdctlNetworkSteps = []step{
	{name: "bridge", script: `nerdctl load -q -i $IMAGE >/dev/null; nerdctl network create --subnet 10.101.0.0/24 --ipv6 --subnet fd01::/64 --opt mtu=1400 one >/dev/null; serve echo :7777 & server=$!
run --rm --network one --ip 10.101.0.9 --mac-address 02:00:00:00:00:09 bb sh -c "$show; cat /etc/resolv.conf
for a in 10.101.0.1 fd01::1; do ping -c 2 -W 20 \$a | grep -o ' 0% packet loss'; done; /client ask-echo tcp 10.101.0.1:7777 hello; /client ask-echo udp [fd01::1]:7777 hello" | sed -E 's/fd01::[0-9a-f]+\/64/fd01::N/'; kill $server`},
	{name: "publish", script: `run -d --name web --network one --ip 10.101.0.7 -p 8080:80 -p 8007:7 -p 8007:7/udp bb sh -c '/client echo :7 & mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w' >/dev/null
wait_for curl -sf -m 5 http://127.0.0.1:8080/; curl -sS -m 20 http://127.0.0.1:8080/ http://10.101.0.1:8080/
host ask-echo tcp 127.0.0.1:8007 hello; host ask-echo udp 127.0.0.1:8007 hello; host ask-echo udp 10.101.0.1:8007 hello`},
	{name: "by name", script: `run --rm --network one --add-host other:1.2.3.4 bb sh -c 'wget -qO- http://web/; /client ask-echo udp web:7 hello; grep -o other /etc/hosts'`},
	{name: "dns", script: `run --rm --network one --dns 192.0.2.1 --dns-search x.test --dns-option ndots:2 bb cat /etc/resolv.conf`},
	{name: "default network", script: `run --rm bb sh -c 'ping -c 2 -W 20 10.4.0.1 | grep -o " 0% packet loss"; ls /sys/class/net'`},
	{name: "restart", script: `nerdctl restart -t 1 web >/dev/null; wait_for curl -sf -m 5 http://127.0.0.1:8080/; curl -sS -m 20 http://127.0.0.1:8080/`},
	{name: "two networks, MTU 1400 and 9000", script: `nerdctl network create --subnet 10.102.0.0/24 --opt mtu=9000 big >/dev/null; serve streams :7778 & server=$!
run --rm --network one --network big bb sh -c "ls /sys/class/net; cat /sys/class/net/eth*/mtu; ping -c 1 -W 20 -s 8900 10.102.0.1 | grep -o ' 0% packet loss'
for a in 10.101.0.1 10.102.0.1; do /client stream \$a:7778 4000000; done"; kill $server`},
	{name: "64 MB both ways between containers", script: `run -d --name streams --network one bb /client streams :99 >/dev/null; run --rm --network one bb /client stream streams:99 64000000; nerdctl rm -f streams >/dev/null`},
	{name: "none", script: "run --rm --network none bb ls /sys/class/net"},
	{name: "clean up", script: `nerdctl rm -f web >/dev/null; nerdctl network rm one big | wc -l; ip link delete nerdctl0; nerdctl ps -aq; ip -o link show | grep -c veth; iptables -t nat -S | grep -c 10.10; curl -s -m 2 http://127.0.0.1:8080/; echo $?`},
}

func TestNerdctlNetwork(t *testing.T) {
	needVM(t)
	needNewer(t)
	needNetworks(t)
	reference, ours := startContainerd(t, containerd2Conf, nerdctlNetworkPrelude, "nerdctl")
	for _, e := range []*engine{reference, ours} {
		if err := os.WriteFile(filepath.Join(e.dir, "nerdctl.toml"), []byte(fmt.Sprintf(nerdctlNetworkConf, e.dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	compareInTurn(t, reference, ours, nerdctlNetworkSteps)
}
