package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/govmm/govmm/testhost/need"
)

// networkPrelude is for the tables of networks. The client in containers is /client; on the host it is called so as well.
const networkPrelude = `
host() { (exec -a /client "$BIN/client" "$@"); }
serve() { exec -a /client "$BIN/client" "$@"; }
show='for i in $(ls /sys/class/net); do echo $i $(cat /sys/class/net/$i/address /sys/class/net/$i/mtu); done
ip -o address | grep -v fe80 | sed "s/^[0-9]*: //; s/ tentative//; s/[\\].*//"; ip route; ip -6 route | grep -v -e fe80 -e multicast | sed "s/ pref.*//; s/ expires.*//"'
`

// needNetworks skips the test but where the engines' networks are promised.
func needNetworks(t *testing.T, programs ...string) {
	t.Helper()
	need.Promised(t, need.Networks, "`make engines` installs netavark, aardvark-dns and CNI's plugins")
	needPrograms(t, append(programs, "busybox", "curl", "iptables", "ip6tables", "ip", "nft")...)
}

// podmanNetworkPrelude keeps podman's networks in the directory of one engine.
const podmanNetworkPrelude = networkPrelude + `
podman() { command podman --network-config-dir "$PWD/networks" "$@"; }
engine() { podman "$@"; }
NAMES=10.90.0.1 DEFAULT="--network podman"
run() { podman run -v "$BIN/client:/client" "$@"; }
`

// podmanNetworkSteps is what people do with podman's networks, by netavark and aardvark-dns. Of two networks podman makes either eth0, and
// all podmans of a machine share the next address of a network's name: who looks at these says them.
var podmanNetworkSteps = []step{
	{name: "bridge", script: `podman network create --subnet 10.91.0.0/24 --ipv6 --subnet fd91::/64 one >/dev/null; serve echo :7777 & server=$!
run --rm --network one --ip 10.91.0.9 --ip6 fd91::9 --mac-address 02:00:00:00:00:09 bb sh -c "$show; cat /etc/resolv.conf
for a in 10.91.0.1 fd91::1; do ping -c 2 -W 20 \$a | grep -o ' 0% packet loss'; done; /client ask-echo tcp 10.91.0.1:7777 hello; /client ask-echo udp [fd91::1]:7777 hello"; kill $server`},
	{name: "publish", script: `run -d --name web --network one --ip 10.91.0.7 -p 8080:80 -p 8007:7 -p 8007:7/udp bb sh -c '/client echo :7 & mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w' >/dev/null
wait_for curl -sf -m 5 http://127.0.0.1:8080/; curl -sS -m 20 http://127.0.0.1:8080/ http://10.91.0.1:8080/ 'http://[fd91::1]:8080/'
host ask-echo tcp 127.0.0.1:8007 hello; host ask-echo udp 127.0.0.1:8007 hello; host ask-echo udp 10.91.0.1:8007 hello`},
	{name: "by name", script: `run --rm --network one --add-host other:1.2.3.4 bb sh -c 'wget -qO- http://web/; /client ask-echo udp web:7 hello; grep other /etc/hosts'`},
	{name: "names of both", full: true, script: `run -d --name asked --network one --network-alias also bb sleep 1000 >/dev/null
podman exec web sh -c 'nslookup also | grep -c Address; ping -c 1 -W 20 asked | grep -o " 0% packet loss"'; podman exec asked wget -qO- http://web/; podman rm -f -t 0 asked >/dev/null`},
	{name: "restart", full: true, script: `podman restart -t 1 web >/dev/null; wait_for curl -sf -m 5 http://127.0.0.1:8080/; curl -sS -m 20 http://127.0.0.1:8080/; run --rm --network one bb wget -qO- http://web/`},
	{name: "dns", full: true, script: `podman network create --disable-dns plain >/dev/null
run --rm --network plain --dns 192.0.2.1 --dns-search x.test --dns-option ndots:2 bb cat /etc/resolv.conf`},
	{name: "connect", full: true, script: `podman network create -o mtu=1400 --subnet 10.92.0.0/24 two >/dev/null; podman network connect --ip 10.92.0.7 two web
wait_for podman exec web sh -c 'ip -4 address show dev eth1 | grep inet'; podman exec web sh -c "$show" | grep -v ^eth; podman exec web cat /sys/class/net/eth1/mtu; run --rm --network two bb wget -qO- http://web/`},
	{name: "disconnect", full: true, script: `podman network disconnect two web; wait_for podman exec web sh -c '! test -e /sys/class/net/eth1'; podman exec web ls /sys/class/net
wait_for curl -sf -m 5 http://127.0.0.1:8080/; curl -sS -m 20 http://127.0.0.1:8080/`},
	{name: "two networks, MTU 1400 and 9000", full: true, script: `podman network create -o mtu=9000 --subnet 10.93.0.0/24 big >/dev/null; serve streams :7778 & server=$!
run --rm --network two:ip=10.92.0.8,interface_name=eth0 --network big:ip=10.93.0.8,interface_name=eth1 bb sh -c "{ $show; } | sort; ping -c 1 -W 20 -s 8900 10.93.0.1 | grep -o ' 0% packet loss'
for a in 10.92.0.1 10.93.0.1; do /client stream \$a:7778 4000000; done" | sed -E 's/(eth[01]) [0-9a-f:]{17}/\1 MAC/'; kill $server`},
	{name: "64 MB both ways between containers", full: true, script: `run -d --name streams --network one bb /client streams :99 >/dev/null; run --rm --network one bb /client stream streams:99 64000000; podman rm -f -t 0 streams >/dev/null`},
	{name: "health check", full: true, script: `run -d --name h --network one --health-cmd 'wget -qO- http://web/' --health-interval disable bb sleep 1000 >/dev/null; podman healthcheck run h; echo $?; podman rm -f -t 0 h >/dev/null`},
	{name: "internal", full: true, script: `podman network create --internal --subnet 10.94.0.0/24 inner >/dev/null; run --rm --network inner --ip 10.94.0.9 bb sh -c 'ip route'`},
	{name: "none", full: true, script: "run --rm --network none bb ls /sys/class/net"},
	{name: "clean up", script: `podman rm -f -t 0 web >/dev/null; podman network rm -f one two >/dev/null; podman network rm -f plain big inner >/dev/null 2>&1; podman ps -aq
wait_for sh -c '[ -z "$(ls /run/netns)" ]'; ip -o link show | wc -l; iptables -t nat -S | grep -c 10.9; curl -s -m 2 http://127.0.0.1:8080/; echo $?`},
}

// podmanServicesSteps are those of real servers.
var podmanServicesSteps = slices.Concat(servicesSteps, loopbackSteps)

// TestPodmanServices runs Debian's servers in networks of podman's.
func TestPodmanServices(t *testing.T) {
	needVM(t)
	need.Promised(t, need.Newer, "`make engines` runs it") // not for what it needs, but for the minutes that it takes
	needNetworks(t, "podman", "conmon", "runc", "nsenter")
	reference, ours := startPodman(t)
	image := servicesImage(t, filepath.Dir(ours.dir))
	for _, e := range []*engine{reference, ours} {
		e.prelude += podmanNetworkPrelude + servicesPrelude
		if out, err := e.run("podman import " + image + " services"); err != nil || !strings.HasSuffix(out, "status 0\n") {
			t.Fatalf("podman import: %s%v", out, err)
		}
	}
	compareInTurn(t, reference, ours, podmanServicesSteps)
}

// TestPodmanNetwork compares containers that have networks.
func TestPodmanNetwork(t *testing.T) {
	needVM(t)
	needNetworks(t, "podman", "conmon", "runc")
	reference, ours := startPodman(t)
	for _, e := range []*engine{reference, ours} {
		e.prelude += podmanNetworkPrelude
	}
	compareInTurn(t, reference, ours, podmanNetworkSteps)
}
