package boot

import "encoding/binary"

// A few words of ACPI Machine Language (ACPI 6.5 §20.2): enough to say which devices there are.
const (
	amlZero    = 0x00
	amlOne     = 0x01
	amlName    = 0x08
	amlByte    = 0x0a
	amlDWord   = 0x0c
	amlString  = 0x0d
	amlScope   = 0x10
	amlBuffer  = 0x11
	amlPackage = 0x12
	amlExt     = 0x5b
	amlDevice  = 0x82 // after amlExt
)

// Resource descriptors (ACPI 6.5 §6.4).
const (
	resIOPort        = 0x47
	resEndTag        = 0x79
	resMemory32Fixed = 0x86
	resExtInterrupt  = 0x89

	resIODecode16 = 1
	resReadWrite  = 1
	// resEdgeHigh: consumer, edge-triggered, active high, exclusive.
	resEdgeHigh = 1<<0 | 1<<1
)

// amlPkgLength encodes the length of a body together with its own bytes (ACPI 6.5 §20.2.4). Bodies are shorter than
// 1 MiB here.
func amlPkgLength(body int) []byte {
	switch {
	case body+1 < 1<<6:
		return []byte{byte(body + 1)}
	case body+2 < 1<<12:
		n := body + 2
		return []byte{1<<6 | byte(n&0xf), byte(n >> 4)}
	default:
		n := body + 3
		return []byte{2<<6 | byte(n&0xf), byte(n >> 4), byte(n >> 12)}
	}
}

// amlBlock is an operator whose operands are preceded by their length.
func amlBlock(op []byte, parts ...[]byte) []byte {
	body := amlJoin(parts...)
	return amlJoin(op, amlPkgLength(len(body)), body)
}

func amlJoin(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// amlNamed is Name(seg, value); seg has four characters.
func amlNamed(seg string, value []byte) []byte {
	return amlJoin([]byte{amlName}, []byte(seg), value)
}

func amlInteger(n uint32) []byte {
	switch {
	case n == 0:
		return []byte{amlZero}
	case n == 1:
		return []byte{amlOne}
	case n < 1<<8:
		return []byte{amlByte, byte(n)}
	}
	return binary.LittleEndian.AppendUint32([]byte{amlDWord}, n)
}

func amlText(s string) []byte {
	return append(append([]byte{amlString}, s...), 0)
}

// amlEISAID packs a plug-and-play id such as PNP0501 (ACPI 6.5 §19.6.36).
func amlEISAID(id string) []byte {
	var n uint32
	for _, c := range []byte(id[:3]) {
		n = n<<5 | uint32(c-'A'+1)
	}
	for _, c := range []byte(id[3:7]) {
		digit := uint32(c - '0')
		if c >= 'A' {
			digit = uint32(c-'A') + 10
		}
		n = n<<4 | digit
	}
	return binary.BigEndian.AppendUint32([]byte{amlDWord}, n)
}

func amlDeviceBlock(seg string, parts ...[]byte) []byte {
	return amlBlock([]byte{amlExt, amlDevice}, append([][]byte{[]byte(seg)}, parts...)...)
}

// amlResources is a resource template: a buffer of descriptors with an end tag. A checksum of zero means none.
func amlResources(descriptors ...[]byte) []byte {
	body := append(amlJoin(descriptors...), resEndTag, 0)
	return amlBlock([]byte{amlBuffer}, amlInteger(uint32(len(body))), body)
}

func resMemory(base, size uint32) []byte {
	b := []byte{resMemory32Fixed, 9, 0, resReadWrite}
	b = binary.LittleEndian.AppendUint32(b, base)
	return binary.LittleEndian.AppendUint32(b, size)
}

func resInterrupt(gsi uint32) []byte {
	b := []byte{resExtInterrupt, 6, 0, resEdgeHigh, 1}
	return binary.LittleEndian.AppendUint32(b, gsi)
}

func resPorts(base uint16, n byte) []byte {
	return []byte{resIOPort, resIODecode16, byte(base), byte(base >> 8), byte(base), byte(base >> 8), 1, n}
}
