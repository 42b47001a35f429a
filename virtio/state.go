package virtio

import "github.com/govmm/govmm/guestmem"

// QueueState is what a snapshot keeps of a queue.
type QueueState struct {
	QueueConfig
	NextAvail uint16
	NextUsed  uint16
	Signalled uint16
}

// State returns the queue's state. The caller has stopped whoever serves it.
func (q *Queue) State() QueueState {
	q.mu.Lock()
	defer q.mu.Unlock()
	return QueueState{q.cfg, q.nextAvail, q.nextUsed, q.signalled}
}

// RestoreQueue makes a queue that goes on where s was taken, which must have been with no chain in flight. State from
// a file is checked like a driver's set-up.
func RestoreQueue(mem *guestmem.Memory, s QueueState, maxSize uint16, features uint64, notify func()) (*Queue, error) {
	if s.NextAvail != s.NextUsed {
		return nil, malformed("saved queue has %d chains in flight", s.NextAvail-s.NextUsed)
	}
	q, err := NewQueue(mem, s.QueueConfig, maxSize, features, notify)
	if err != nil {
		return nil, err
	}
	q.nextAvail, q.nextUsed, q.signalled = s.NextAvail, s.NextUsed, s.Signalled
	return q, nil
}
