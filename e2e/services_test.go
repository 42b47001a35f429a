package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// servicesImage makes a tar of the busybox image to which Debian's nginx, redis and dnsmasq are added, and returns its path.
func servicesImage(t *testing.T, dir string) string {
	t.Helper()
	dir = filepath.Join(dir, "services")
	shell(t, filepath.Dir(dir), "mkdir services")
	busyboxImage(t, dir)
	cmd := exec.Command("/bin/sh", "-ec", `copy() { mkdir -p "root${1%/*}"; cp -L "$DEBIAN$1" "root$1"; }
for p in /usr/sbin/nginx /usr/sbin/dnsmasq /usr/bin/redis-server /usr/bin/redis-cli; do
	copy $p
	chroot "$DEBIAN" ldd $p | sed -n 's/.*[ 	]\(\/[^ ]*\) (.*/\1/p'
done | sort -u | while read -r lib; do copy $lib; done
mkdir -p root/w/cgi-bin root/var/log/nginx root/var/lib/nginx root/run
echo page >root/w/index.html; printf '#!/bin/sh\necho; exec redis-cli -h db get word\n' >root/w/cgi-bin/word; chmod 755 root/w/cgi-bin/word
ln -s ../usr/bin/redis-cli root/bin/redis-cli
cat >root/etc/nginx.conf <<E
daemon off; user root; worker_processes 2; error_log stderr; pid /run/nginx.pid; events {}
http { access_log off; server { listen 80; listen [::]:80; location / { root /w; } location /cgi-bin/ { proxy_pass http://app:8000; } } }
E
tar -C root -cf services.tar .`)
	cmd.Dir, cmd.Env = dir, append(cmd.Environ(), "DEBIAN="+debianRoot(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("image of services: %v: %s", err, out)
	}
	return filepath.Join(dir, "services.tar")
}

// servicesPrelude starts an application of three services that find each other by name, and a name server of the user's, which asks the
// engine's own. The table says what engine is and where its name server, NAMES.
const servicesPrelude = `
start() { run -d --name "$1" --network app "${@:2}" >/dev/null; }
start_application() {
	engine network create --subnet 10.90.0.0/24 app >/dev/null
	start db services /usr/bin/redis-server --save "" --protected-mode no
	start app services httpd -f -p 8000 -h /w
	start front -p 8080:80 services /usr/sbin/nginx -c /etc/nginx.conf
	start names services /usr/sbin/dnsmasq -k --user=root --group=root --pid-file=/run/dnsmasq.pid --no-resolv --server=$NAMES --address=/x.test/192.0.2.7
	wait_for engine exec db redis-cli set word found; wait_for curl -sf -m 5 http://127.0.0.1:8080/cgi-bin/word
}
`

// servicesSteps are for engines whose networks have names.
var servicesSteps = []step{
	{name: "application of three services", script: `start_application; curl -sS -m 20 http://127.0.0.1:8080/ http://127.0.0.1:8080/cgi-bin/word`},
	{name: "dnsmasq on 0.0.0.0:53", script: `engine exec app sh -c 'nslookup x.test names | grep -o 192.0.2.7; address() { nslookup "$@" 2>/dev/null | sed -n "s/^Address: *//p" | tail -1; }
[ -n "$(address db)" ] && [ "$(address db names)" = "$(address db)" ] && echo the same'; engine exec names sh -c 'ping -c 1 -W 20 front | grep -o " 0% packet loss"'`},
	{name: "file of nginx", script: `engine exec front sh -c 'dd if=/dev/urandom of=/w/big bs=1M count=30 2>/dev/null; sha256sum </w/big' >sum; curl -sS -m 150 http://127.0.0.1:8080/big | sha256sum | cmp - sum && echo the same
for i in 1 2 3 4 5 6 7 8; do curl -sS -m 60 "http://127.0.0.1:8080/?[1-20]" -o /dev/null -w '%{http_code}\n' & done | sort | uniq -c; wait`},
	{name: "end of the application", script: `engine rm -f -t 0 front app db names >/dev/null; engine network rm app >/dev/null; echo $?`},
}

// loopbackSteps dial a server of the container's from its namespace, as port-forward does and rootless engines' port handlers.
var loopbackSteps = []step{
	{name: "dial the namespace's loopback", script: `run -d --name local $DEFAULT bb sh -c 'mkdir /w; echo page >/w/index.html; httpd -p 127.0.0.1:81 -h /w; exec httpd -f -p 80 -h /w' >/dev/null
inside() { nsenter -t $(engine inspect local --format '{{.State.Pid}}') -n "$@"; }
wait_for inside curl -sf -m 5 http://127.0.0.1:80/; inside curl -sS -m 20 http://127.0.0.1:80/ http://127.0.0.1:81/; engine rm -f -t 0 local >/dev/null`},
}
