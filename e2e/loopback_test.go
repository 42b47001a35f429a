package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/govmm/govmm/testhost/need"
)

// answerTime is how long an answer may take.
const answerTime = 20 * time.Second

// ask asks a server each question, over a connection of its own, and prints the answers.
func ask(network, address string, questions []string) error {
	for _, q := range questions {
		c, err := net.DialTimeout(network, address, answerTime)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(answerTime))
		if _, err := io.WriteString(c, q+"\n"); err != nil {
			return err
		}
		b := make([]byte, 200)
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		fmt.Printf("%s %s\n", network, b[:n])
		c.Close()
	}
	return nil
}

// answer answers with words and the question.
func answer(network, address, words string) error {
	return serve(network, address, func(q string) string { return words + " " + q }, nil)
}

// serve answers questions, each of a line; ready is told the port.
func serve(network, address string, f func(q string) string, ready chan<- int) error {
	if strings.HasPrefix(network, "udp") {
		c, err := net.ListenPacket(network, address)
		if err != nil {
			return err
		}
		if ready != nil {
			ready <- c.LocalAddr().(*net.UDPAddr).Port
		}
		for b := make([]byte, 200); ; {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return err
			}
			if _, err := c.WriteTo([]byte(f(strings.TrimSpace(string(b[:n])))), from); err != nil {
				return err
			}
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	if ready != nil {
		ready <- l.Addr().(*net.TCPAddr).Port
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		b := make([]byte, 200)
		if n, err := c.Read(b); err == nil {
			_, _ = io.WriteString(c, f(strings.TrimSpace(string(b[:n]))))
		}
		c.Close()
	}
}

// within has f run on a thread in the namespace, as dockerd does what it does there.
func (ns *netns) within(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		fd, err := unix.Open("/run/netns/"+ns.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return done
}

// nameServer starts what dockerd has in a container's namespace: a server at a port of 127.0.0.11, with rules that lead those to it who ask
// at port 53, and which asks another server from within the namespace.
func (ns *netns) nameServer(upstream string) {
	ns.t.Helper()
	var rules []string
	for _, network := range []string{"udp", "tcp"} {
		ready := make(chan int, 1)
		failed := ns.within(func() error {
			return serve(network, "127.0.0.11:0", func(q string) string {
				if q != "far" {
					return "near " + q
				}
				var a string
				err := <-ns.within(func() error { // a thread may have moved on
					c, err := net.DialTimeout(network, upstream, answerTime)
					if err != nil {
						return err
					}
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(answerTime))
					_, _ = io.WriteString(c, q)
					b := make([]byte, 200)
					n, err := c.Read(b)
					a = string(b[:n])
					return err
				})
				return fmt.Sprint(a, errorOf(err))
			}, ready)
		})
		select {
		case port := <-ready:
			rules = append(rules, fmt.Sprintf("ip daddr 127.0.0.11 %s dport 53 dnat to 127.0.0.11:%d", network, port))
		case err := <-failed:
			ns.t.Fatal(err)
		}
	}
	ns.inside("nft \"add table ip docker; add chain ip docker out { type nat hook output priority -100; }\"")
	for _, rule := range rules {
		ns.inside("nft add rule ip docker out %s", rule)
	}
}

func errorOf(err error) string {
	if err == nil {
		return ""
	}
	return " " + err.Error()
}

// TestNetworkLoopback has a container ask a name server that lives on its namespace's loopback, as docker's does, and the namespace
// dial the container's servers there, under runc and under govmm-run.
func TestNetworkLoopback(t *testing.T) {
	r := newRuntime(t)
	needNetwork(t)
	ns := newNetns(t, 6)
	for _, network := range []string{"udp", "tcp"} {
		go func() { _ = serve(network, "10.88.6.1:53", func(q string) string { return "upstream " + q }, nil) }()
	}
	ns.nameServer("10.88.6.1:53")
	many := strings.TrimSpace(strings.Repeat("q ", 40))
	bundle := r.bundle(func(s *specs.Spec) { ns.join(s) }, "/bin/sh", "-c", `exec 2>&1
/client answer tcp4 0.0.0.0:53 own & /client answer udp4 0.0.0.0:53 own &
/client answer tcp4 127.0.0.1:8080 local & /client answer tcp6 [::1]:8080 local6 & /client answer tcp4 0.0.0.0:8081 all &
/client answer udp4 127.0.0.1:8080 local & /client answer udp6 [::1]:8080 local6 & /client answer udp4 0.0.0.0:8081 all &
sleep 1
for n in udp tcp; do
  /client ask $n 127.0.0.11:53 one far two far
  /client ask $n 10.88.6.1:53 direct
  /client ask $n 127.0.0.1:53 self
  /client ask $n 127.0.0.11:53 `+many+` | sort | uniq -c
done
touch /ready
while [ ! -e /go ]; do sleep 0.2; done
`)
	rootfs := bundle + "/rootfs"
	copyClient(t, rootfs)
	before := ns.traces()
	try := func(start func() result) string {
		_, _ = os.Remove(rootfs+"/ready"), os.Remove(rootfs+"/go")
		done := make(chan result, 1)
		go func() { done <- start() }()
		for deadline := time.Now().Add(8 * answerTime); ; time.Sleep(50 * time.Millisecond) {
			if _, err := os.Stat(rootfs + "/ready"); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Error("the container does not get ready")
				break
			}
		}
		var out strings.Builder
		for _, address := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "10.88.6.2:8081", "127.0.0.1:8082", "10.88.6.2:8080"} {
			err := <-ns.within(func() error {
				c, err := net.DialTimeout("tcp", address, answerTime)
				if err != nil {
					return err
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(answerTime))
				_, _ = io.WriteString(c, "hello\n")
				b, err := io.ReadAll(c)
				fmt.Fprintf(&out, "%s: %s\n", address, b)
				return err
			})
			// A relay can only say no when it has taken the connection.
			if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
				err = errors.New("refused")
			}
			fmt.Fprintf(&out, "%s: %v\n", address, err)
		}
		// More clients than there are talks at a time.
		for i, address := range slices.Repeat([]string{"127.0.0.1:53", "127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "10.88.6.2:8081"}, 20) {
			err := <-ns.within(func() error {
				c, err := net.DialTimeout("udp", address, answerTime)
				if err != nil {
					return err
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(answerTime))
				for n := range 3 {
					fmt.Fprintf(c, "%d of %d", n, i)
					b := make([]byte, 200)
					n, err := c.Read(b)
					if err != nil {
						return err
					}
					fmt.Fprintf(&out, "udp %s: %s\n", address, b[:n])
				}
				return nil
			})
			if err != nil {
				fmt.Fprintf(&out, "udp %s: %v\n", address, err)
			}
		}
		if err := os.WriteFile(rootfs+"/go", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		res := <-done
		return fmt.Sprintf("%s%s%sstatus %d\n", res.out, res.err, &out, res.status)
	}
	runc := need.Program(t, "runc", "runc")
	theirs := try(func() result {
		return finish(t, exec.Command(runc, "--root", r.dir+"/runc", "run", "--bundle", bundle, r.id()), nil)
	})
	if !strings.Contains(theirs, "udp 10.88.6.2:8081: all 2 of 99\n") || !strings.Contains(theirs, "udp upstream far\n") || !strings.Contains(theirs, "tcp upstream far\n") || !strings.HasSuffix(theirs, "status 0\n") {
		t.Fatalf("runc: %s", theirs)
	}
	ours := try(func() result { return r.run("run", "--bundle", bundle, r.id()) })
	ours = strings.ReplaceAll(strings.ReplaceAll(ours, "127.0.0.1:8082: \n", ""), "10.88.6.2:8080: \n", "") // taken, and then reset
	if ours != theirs {
		t.Errorf("runc:\n%s\ngovmm-run:\n%s", theirs, ours)
	}
	ns.unchanged(before)
}
