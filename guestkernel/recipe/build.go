package recipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/govmm/govmm/guestkernel/initramfs"
)

// Build returns the kernel of r from the cache, after building it if it is
// not there yet. Packages that the build needs are installed first.
func Build(ctx context.Context, r Recipe, o Options) (Result, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	cache, err := CacheDir()
	if err != nil {
		return Result{}, err
	}
	// Of two builds at once, the second waits and finds the first's kernel.
	unlock, err := lock(cache, r.name)
	if err != nil {
		return Result{}, err
	}
	defer unlock()

	tools, missing := probe(r)
	if len(missing) > 0 {
		if err := install(ctx, o.Log, missing); err != nil {
			return Result{}, err
		}
		if tools, missing = probe(r); len(missing) > 0 {
			return Result{}, fmt.Errorf("still missing after apt-get install: %s", strings.Join(missing, " "))
		}
	}
	res := result(filepath.Join(cache, r.key(tools)), r)
	if _, err := os.Stat(res.Kernel); err == nil && !o.Force {
		res.Cached = true
		return res, nil
	}
	return res, buildInto(ctx, res, r, o)
}

// buildInto builds r and moves the finished files to res.Dir in one step. The
// build directory is kept after a failure, so that the log can be read.
func buildInto(ctx context.Context, res Result, r Recipe, o Options) error {
	work := o.Work
	if work == "" {
		work = filepath.Dir(res.Dir)
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(work, "build-"+r.name+"-")
	if err != nil {
		return err
	}
	b := &builder{Recipe: r, Options: o, src: filepath.Join(work, "linux"), out: filepath.Join(work, "out"), start: time.Now()}
	if err := b.run(ctx); err != nil {
		return fmt.Errorf("build the %s guest kernel (left in %s): %w", r.name, work, err)
	}
	if o.Force {
		if err := sameBytes(b.out, res.Dir); err != nil {
			return fmt.Errorf("%w (left in %s)", err, work)
		}
	}
	if err := os.Rename(b.out, res.Dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		if !errors.Is(err, syscall.EXDEV) {
			return err
		}
		if err := moveAcross(b.out, res.Dir); err != nil {
			return err
		}
	}
	return os.RemoveAll(work)
}

type builder struct {
	Recipe
	Options
	src, out string
	start    time.Time
}

func (b *builder) run(ctx context.Context) error {
	for _, dir := range []string{b.src, b.out} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	asked, err := mergeFragments(b.fragments)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.Log, "guest kernel: unpacking %s\n", sourcePackage)
	if err := unpack(ctx, b.src); err != nil {
		return err
	}
	if err := b.configure(ctx, asked); err != nil {
		return err
	}
	if err := b.compile(ctx); err != nil {
		return err
	}
	if err := b.collect(ctx); err != nil {
		return err
	}
	if b.initC == nil {
		return nil
	}
	return b.packInit(ctx)
}

// configure makes .config out of tinyconfig and the fragments, and insists
// that Kconfig took every one of them as it was asked for.
func (b *builder) configure(ctx context.Context, asked []option) error {
	defined, err := kconfigNames(b.src)
	if err != nil {
		return err
	}
	if names := unknown(asked, defined); len(names) > 0 {
		return fmt.Errorf("no such option in this kernel: %s", strings.Join(names, " "))
	}
	if err := b.make(ctx, nil, "tinyconfig"); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(b.src, ".config"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, o := range asked {
		if _, err := fmt.Fprintf(f, "CONFIG_%s=%s\n", o.name, o.value); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := b.make(ctx, nil, "olddefconfig"); err != nil {
		return err
	}
	dot, err := os.ReadFile(filepath.Join(b.src, ".config"))
	if err != nil {
		return err
	}
	if diff := unmet(asked, dot); len(diff) > 0 && !b.lenient {
		return fmt.Errorf("options that did not end up as asked for (a dependency is missing, or something selects them):\n  %s", strings.Join(diff, "\n  "))
	}
	return nil
}

var kconfigName = regexp.MustCompile(`(?m)^\s*(?:menu)?config\s+([A-Z0-9_]+)`)

// kconfigNames lists every option that some Kconfig file below src defines.
func kconfigNames(src string) (map[string]bool, error) {
	names := map[string]bool{}
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(d.Name(), "Kconfig") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range kconfigName.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	return names, err
}

func (b *builder) compile(ctx context.Context) error {
	p := newProgress(b.Log, b.name, b.objects, b.start)
	defer p.finish()
	return b.make(ctx, p, "vmlinux")
}

// make runs make in the source directory; its lines go to lines, or nowhere.
func (b *builder) make(ctx context.Context, lines *progress, target string) error {
	jobs := b.Jobs
	if jobs <= 0 {
		jobs = numCPU()
	}
	cmd := exec.CommandContext(ctx, "make", fmt.Sprintf("-j%d", jobs), "ARCH=x86_64", "LOCALVERSION=", target)
	cmd.Dir = b.src
	cmd.Env = buildEnv()
	// make's children must not outlive an interrupted build.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	var log bytes.Buffer
	cmd.Stderr = &log
	switch {
	case b.Verbose:
		cmd.Stdout, cmd.Stderr = b.Log, b.Log
	case lines != nil:
		cmd.Stdout = lines
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("make %s: %w\n%s", target, err, tail(log.Bytes(), 30))
	}
	return nil
}

// buildEnv is the whole environment of make: nothing of the caller's gets
// into the kernel, neither flags nor who built it where and when.
func buildEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/nonexistent",
		"TMPDIR=" + os.TempDir(),
		"LC_ALL=C",
		"TZ=UTC",
		"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
		"KBUILD_BUILD_USER=govmm",
		"KBUILD_BUILD_HOST=govmm",
		"KBUILD_BUILD_VERSION=1",
	}
}

// collect strips the kernel into the output directory and puts beside it what
// describes it.
func (b *builder) collect(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "strip", "--strip-all", "-o", filepath.Join(b.out, "vmlinux"), filepath.Join(b.src, "vmlinux"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("strip: %w\n%s", err, tail(out, 5))
	}
	for from, to := range map[string]string{".config": "config", "modules.builtin": "modules.builtin", "System.map": "System.map"} {
		data, err := os.ReadFile(filepath.Join(b.src, from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.out, to), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// packInit compiles the recipe's init and packs it as an initramfs.
func (b *builder) packInit(ctx context.Context) error {
	dir := filepath.Dir(b.out)
	source, binary := filepath.Join(dir, "init.c"), filepath.Join(dir, "init")
	if err := os.WriteFile(source, b.initC, 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "gcc", "-O2", "-static", "-s", "-o", binary, "init.c")
	cmd.Dir, cmd.Env = dir, buildEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile init: %w\n%s", err, tail(out, 10))
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := initramfs.Write(&archive, initramfs.ForInit(program)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, "initrd.cpio"), archive.Bytes(), 0o644)
}
