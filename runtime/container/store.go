// Package container keeps what must survive a call of govmm-run: one directory a container below the state root, with
// its state.json, its control socket, and nothing that outlives delete.
package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"

	"golang.org/x/sys/unix"
)

// The errors whose texts engines look for; they are runc's.
var (
	ErrExist    = errors.New("container with given ID already exists")
	ErrNotExist = errors.New("container does not exist")
	ErrID       = errors.New("invalid container ID format")
)

// ErrDamaged reports a state that cannot be understood.
var ErrDamaged = errors.New("the container's state is damaged")

// DefaultRoot is where states are kept unless --root says otherwise.
const DefaultRoot = "/run/govmm"

const stateFile = "state.json"

var idFormat = regexp.MustCompile(`^[\w+\-.]+$`)

// maxID is how long the name of a directory may be (NAME_MAX).
const maxID = 255

// Store is a state root.
type Store struct {
	root string
}

// NewStore returns the store in root, which need not exist yet.
func NewStore(root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	return &Store{abs}, nil
}

func (s *Store) dir(id string) (string, error) {
	if len(id) > maxID {
		return "", fmt.Errorf("%w: %d characters are too many: use at most %d", ErrID, len(id), maxID)
	}
	if !idFormat.MatchString(id) || id == "." || id == ".." {
		return "", fmt.Errorf("%w: %q: use letters, digits, '_', '+', '-' and '.'", ErrID, id)
	}
	return filepath.Join(s.root, id), nil
}

// Create reserves id: it makes the container's directory, locked until Unlock, or fails with ErrExist.
func (s *Store) Create(id string) (*Container, error) {
	dir, err := s.dir(id)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.root, 0o711); err != nil {
		return nil, fmt.Errorf("state root: %w", err)
	}
	// One create at a time between making the directory and locking it: another one that had taken the new directory for
	// that of a create that died could have made it anew, and both would lock the same one.
	root, err := os.Open(s.root)
	if err != nil {
		return nil, fmt.Errorf("state root: %w", err)
	}
	defer root.Close()
	if err := flock(root, unix.LOCK_EX); err != nil {
		return nil, os.NewSyscallError("flock", err)
	}
	c := &Container{dir: dir}
	c.State.ID = id
	for {
		if err := os.Mkdir(dir, 0o711); errors.Is(err, os.ErrExist) {
			return nil, ErrExist
		} else if err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
		// Before it is locked, a delete may take the directory for that of a create that died.
		err := c.Lock()
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, ErrNotExist) {
			_ = os.RemoveAll(dir)
			return nil, err
		}
	}
}

// Load reads the state of id, or fails with ErrNotExist, or with ErrDamaged and a container that can still be removed.
// A directory without a state belongs to a create that is under way or died: it loads as one without a monitor.
func (s *Store) Load(id string) (*Container, error) {
	dir, err := s.dir(id)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotExist
	} else if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	c := &Container{dir: dir}
	c.State.ID = id
	if err := c.read(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return c, err
	}
	return c, nil
}

// List loads every container, sorted by id. One that cannot be read is left out and its error joined to the others.
func (s *Store) List() ([]*Container, error) {
	entries, err := os.ReadDir(s.root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("state root: %w", err)
	}
	var out []*Container
	var errs []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := s.Load(e.Name())
		switch {
		case errors.Is(err, ErrNotExist), errors.Is(err, ErrID):
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", e.Name(), err))
		default:
			out = append(out, c)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].State.ID < out[j].State.ID })
	return out, errors.Join(errs...)
}

// Lock takes the container's lock, waiting for whoever holds it; operations that change the state hold it. The lock
// goes with the process that holds it. It fails with ErrNotExist for a container that was deleted meanwhile.
func (c *Container) Lock() error {
	for {
		f, err := os.Open(c.dir)
		if errors.Is(err, os.ErrNotExist) {
			return ErrNotExist
		} else if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		if err := flock(f, unix.LOCK_EX); err != nil {
			f.Close()
			return os.NewSyscallError("flock", err)
		}
		if c.names(f) {
			c.lock = f
			return nil
		}
		f.Close() // deleted, and perhaps made anew, while the lock was waited for
	}
}

// names says whether the container's directory is still the open one.
func (c *Container) names(f *os.File) bool {
	locked, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(c.dir)
	return err == nil && os.SameFile(locked, now)
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Unlock releases the lock, if it is held.
func (c *Container) Unlock() {
	if c.lock != nil {
		c.lock.Close()
		c.lock = nil
	}
}

// Remove deletes the container's directory; its id is free then.
func (c *Container) Remove() error {
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}
