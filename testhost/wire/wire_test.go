package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

type frame struct {
	Type    Type
	Payload string
}

func readAll(r io.Reader) ([]frame, error) {
	var got []frame
	in := NewReader(r)
	for {
		t, p, err := in.Next()
		if err != nil {
			return got, err
		}
		got = append(got, frame{t, string(p)})
	}
}

func TestRoundTrip(t *testing.T) {
	want := []frame{
		{Stdin, "a\x00b\n"}, {Stdin, ""}, {Stdout, string(make([]byte, MaxPayload))}, {Exit, `{"Status":7,"Err":""}`},
	}
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for _, f := range want[:3] {
		if err := w.Frame(f.Type, []byte(f.Payload)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.JSON(Exit, ExitInfo{Status: 7}); err != nil {
		t.Fatal(err)
	}
	// A port hands out bytes as it likes.
	got, err := readAll(iotest.HalfReader(&buf))
	if !errors.Is(err, io.EOF) {
		t.Fatalf("err = %v, want EOF", err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

func TestReadErrors(t *testing.T) {
	head := func(n uint32) []byte { return binary.LittleEndian.AppendUint32([]byte{byte(Stdout)}, n) }
	for name, c := range map[string]struct {
		in   []byte
		want error // nil: any but EOF
	}{
		"nothing":       {nil, io.EOF},
		"half a header": {head(3)[:2], io.ErrUnexpectedEOF},
		"no payload":    {head(3), io.ErrUnexpectedEOF},
		"half payload":  {append(head(3), 1), io.ErrUnexpectedEOF},
		"too long":      {head(MaxPayload + 1), nil},
		"huge":          {head(1<<32 - 1), nil},
	} {
		_, _, err := NewReader(bytes.NewReader(c.in)).Next()
		if c.want != nil && !errors.Is(err, c.want) || c.want == nil && (err == nil || errors.Is(err, io.EOF)) {
			t.Errorf("%s: err = %v, want %v", name, err, c.want)
		}
	}
}

func TestWriteTooLong(t *testing.T) {
	var buf bytes.Buffer
	if err := NewWriter(&buf).Frame(Stdout, make([]byte, MaxPayload+1)); err == nil || buf.Len() != 0 {
		t.Fatalf("err = %v with %d bytes written, want an error and none", err, buf.Len())
	}
}

// FuzzReader: whatever comes, frames read are the bytes that came, in order.
func FuzzReader(f *testing.F) {
	f.Add([]byte{'o', 1, 0, 0, 0, 'x', 'q', 0, 0, 0, 0})
	f.Add([]byte{'o', 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		frames, err := readAll(bytes.NewReader(in))
		if err == nil {
			t.Fatal("no end")
		}
		var out bytes.Buffer
		w := NewWriter(&out)
		for _, fr := range frames {
			if err := w.Frame(fr.Type, []byte(fr.Payload)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(in, out.Bytes()) {
			t.Fatalf("frames %q are not a prefix of the input", out.Bytes())
		}
		if errors.Is(err, io.EOF) && out.Len() != len(in) {
			t.Fatalf("end of file with %d of %d bytes read", out.Len(), len(in))
		}
	})
}
