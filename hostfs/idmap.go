package hostfs

// IDMap translates between the ids that the guest sends and those that the host's files carry. It is asked for every id that
// crosses the boundary in a FUSE field; ids inside ACLs and security.capability are not translated yet.
type IDMap interface {
	// HostUID and HostGID translate an id for the host; false refuses the request with EOVERFLOW, as an unmapped id
	// does in a user namespace.
	HostUID(guest uint32) (uint32, bool)
	HostGID(guest uint32) (uint32, bool)
	// GuestUID and GuestGID translate an id for the guest; what is not mapped reads as 65534.
	GuestUID(host uint32) uint32
	GuestGID(host uint32) uint32
}

type identity struct{}

func (identity) HostUID(id uint32) (uint32, bool) { return id, true }
func (identity) HostGID(id uint32) (uint32, bool) { return id, true }
func (identity) GuestUID(id uint32) uint32        { return id }
func (identity) GuestGID(id uint32) uint32        { return id }
