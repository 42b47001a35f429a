package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/govmm/govmm/testhost/need"
)

// dockerNetworkConf lets docker make its bridge and its rules.
const dockerNetworkConf = `{
  "data-root": "%[1]s/data", "exec-root": "%[1]s/exec", "pidfile": "%[1]s/docker.pid", "hosts": ["unix://%[1]s/d.sock"],
  "bip": "10.95.0.1/24", "ipv6": true, "fixed-cidr-v6": "fd95::/64", "experimental": true, "ip6tables": true, "storage-driver": "overlay2",
  "runtimes": {"govmm-run": {"path": "%[2]s/govmm-run"}}
}
`

// docker29NetworkConf does so for version 29.
const docker29NetworkConf = `{
  "data-root": "%[1]s/data", "exec-root": "%[1]s/exec", "pidfile": "%[1]s/docker.pid", "hosts": ["unix://%[1]s/d.sock"],
  "bip": "10.95.0.1/24", "ipv6": true, "fixed-cidr-v6": "fd95::/64", "features": {"containerd-snapshotter": true},
  "runtimes": {"govmm-run": {"path": "%[2]s/govmm-run"}}
}
`

const dockerNetworkPrelude = networkPrelude + `
run() { docker run --runtime "$RUNTIME" -v "$BIN/client:/client" "$@"; }
engine() { case $1 in rm) docker rm -f "${@:5}" ;; *) docker "$@" ;; esac; }
NAMES=127.0.0.11
`

// dockerNetworkSteps is what people do with docker's networks. The default bridge gives addresses out one after the other. Of two networks
// either is eth0: docker goes through them in no order.
var dockerNetworkSteps = []step{
	{name: "bridge", script: `serve echo :7777 & server=$!
run --rm bb sh -c "$show; cat /etc/resolv.conf; for a in 10.95.0.1 fd95::1; do ping -c 2 -W 20 \$a | grep -o ' 0% packet loss'; done
/client ask-echo tcp 10.95.0.1:7777 hello; /client ask-echo udp [fd95::1]:7777 hello" | sed -E 's/(10.95.0|fd95:.*:)[.:]?[0-9a-f]+ /\1.N /g; s/(10.95.0|fd95:)[.:][0-9a-f]+\//\1.N\//g; s/(eth0) [0-9a-f:]{17}/\1 MAC/'; kill $server`},
	{name: "publish", script: `run -d --name web -p 8080:80 -p 8007:7 -p 8007:7/udp bb sh -c '/client echo :7 & mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w' >/dev/null
wait_for curl -sf -m 5 http://127.0.0.1:8080/; curl -sS -m 20 http://127.0.0.1:8080/ http://10.95.0.1:8080/ 'http://[::1]:8080/'
host ask-echo tcp 127.0.0.1:8007 hello; host ask-echo udp 127.0.0.1:8007 hello; host ask-echo udp 10.95.0.1:8007 hello`},
	{name: "link", script: `run --rm --link web:w --add-host other:1.2.3.4 bb sh -c 'wget -qO- http://w/; /client ask-echo udp w:7 hello; grep -o other /etc/hosts'`},
	{name: "dns", script: `run --rm --dns 192.0.2.1 --dns-search x.test --dns-option ndots:2 bb grep -v '^#' /etc/resolv.conf`},
	{name: "user network", script: `docker network create --subnet 10.96.0.0/24 --ipv6 --subnet fd96::/64 -o com.docker.network.driver.mtu=1400 one >/dev/null
run --rm --network one --ip 10.96.0.9 --ip6 fd96::9 --mac-address 02:00:00:00:00:09 bb sh -c "$show; for a in 10.96.0.1 fd96::1; do ping -c 2 -W 20 \$a | grep -o ' 0% packet loss'; done"`},
	{name: "connect", script: `docker network connect --ip 10.96.0.7 one web
wait_for docker exec web sh -c 'ip -4 address show dev eth1 | grep inet'; docker exec web ip -o -4 address show dev eth1 | sed 's/^[0-9]*: //'; docker exec web cat /sys/class/net/eth1/mtu; run --rm --network one bb wget -qO- http://10.96.0.7/`},
	{name: "disconnect", script: `docker network disconnect one web; wait_for docker exec web sh -c '! test -e /sys/class/net/eth1'; docker exec web ls /sys/class/net
wait_for curl -sf -m 5 http://127.0.0.1:8080/; curl -sS -m 20 http://127.0.0.1:8080/`},
	{name: "restart", script: `docker restart -t 1 web >/dev/null; wait_for curl -sf -m 5 http://127.0.0.1:8080/; curl -sS -m 20 http://127.0.0.1:8080/`},
	{name: "two networks, MTU 1400 and 9000", script: `docker network create -o com.docker.network.driver.mtu=9000 --subnet 10.97.0.0/24 big >/dev/null; serve streams :7778 & server=$!
docker create --runtime $RUNTIME --name both --network one --ip 10.96.0.8 -v $BIN/client:/client bb sh -c "ls /sys/class/net
for a in 10.96.0.8 10.97.0.8; do cat /sys/class/net/\$(ip -o address | grep -F \$a/ | cut -d' ' -f2)/mtu; done; ip route | sed 's/ eth[01]/ ethN/'; ping -c 1 -W 20 -s 8900 10.97.0.1 | grep -o ' 0% packet loss'
for a in 10.96.0.1 10.97.0.1; do /client stream \$a:7778 4000000; done" >/dev/null
docker network connect --ip 10.97.0.8 big both; docker start -a both; docker rm both >/dev/null; kill $server`},
	{name: "64 MB both ways between containers", script: `run -d --name streams --network one --ip 10.96.0.7 bb /client streams :99 >/dev/null; run --rm --network one bb /client stream 10.96.0.7:99 64000000; docker rm -f streams >/dev/null`},
	{name: "internal", script: `docker network create --internal --subnet 10.99.0.0/24 inner >/dev/null; run --rm --network inner bb ip route | sed 's/src .*//'`},
	{name: "none", script: "run --rm --network none bb ls /sys/class/net"},
	{name: "clean up", script: `docker rm -f web >/dev/null; docker network rm one big inner | wc -l; docker ps -aq; ip -o link show | grep -c veth; iptables -t nat -S | grep -c -E '8080|10.9[679]'; curl -s -m 2 http://127.0.0.1:8080/; echo $?`},
}

func TestDockerNetwork(t *testing.T) {
	needVM(t)
	need.Promised(t, need.Newer, "`make engines` runs it") // not for what it needs, but for the minutes that it takes
	debiansDocker(t)
	needNetworks(t)
	dockerNetwork(t, dockerNetworkConf)
}

func TestDocker29Network(t *testing.T) {
	needVM(t)
	needNewer(t)
	needNetworks(t)
	dockerNetwork(t, docker29NetworkConf)
}

func dockerNetwork(t *testing.T, conf string) {
	t.Helper()
	reference, ours := startDocker(t, conf)
	for _, e := range []*engine{reference, ours} {
		e.prelude += dockerNetworkPrelude
	}
	compareInTurn(t, reference, ours, dockerNetworkSteps)
}

// dockerServicesSteps are those of real servers, which docker's networks of users give names.
var dockerServicesSteps = slices.Concat(servicesSteps, loopbackSteps)

// TestDockerServices runs Debian's servers in networks of docker's.
func TestDockerServices(t *testing.T) {
	needVM(t)
	need.Promised(t, need.Newer, "`make engines` runs it")
	debiansDocker(t)
	needNetworks(t, "nsenter")
	reference, ours := startDocker(t, dockerNetworkConf)
	dir := filepath.Dir(ours.dir)
	if out, err := ours.run("docker load -q -i " + archiveOf(t, dir, "services", servicesImage(t, dir))); err != nil || !strings.HasSuffix(out, "status 0\n") {
		t.Fatalf("docker load: %s%v", out, err)
	}
	for _, e := range []*engine{reference, ours} {
		e.prelude += dockerNetworkPrelude + servicesPrelude
	}
	compareInTurn(t, reference, ours, dockerServicesSteps)
}
