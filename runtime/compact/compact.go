// Package compact is how govmm-run hands a value to another process of the same program: the fields in their order, without
// names. encoding/json spends 2 million instructions of a start on looking at types and names before it reads a byte.
package compact

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

var errShort = errors.New("compact: the value ends too early")

// Append appends what v points to. Lists and maps that are empty stay empty, those that are nil stay nil.
func Append(b []byte, v any) ([]byte, error) { return appendValue(b, reflect.ValueOf(v).Elem()) }

func appendValue(b []byte, v reflect.Value) ([]byte, error) {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1), nil
		}
		return append(b, 0), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return binary.AppendVarint(b, v.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return binary.AppendUvarint(b, v.Uint()), nil
	case reflect.String:
		return append(binary.AppendUvarint(b, uint64(v.Len())), v.String()...), nil
	case reflect.Struct:
		var err error
		for i := 0; i < v.NumField() && err == nil; i++ {
			b, err = appendValue(b, v.Field(i))
		}
		return b, err
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		if v.IsNil() {
			return append(b, 0), nil
		}
		return appendElements(b, v)
	}
	return nil, fmt.Errorf("compact: no form for %v", v.Type())
}

// appendElements appends one more than the number of what v holds, then that.
func appendElements(b []byte, v reflect.Value) ([]byte, error) {
	var err error
	switch v.Kind() {
	case reflect.Pointer:
		return appendValue(append(b, 2), v.Elem())
	case reflect.Interface: // of any type, as JSON has it
		text, err := json.Marshal(v.Interface())
		return append(binary.AppendUvarint(b, uint64(len(text))+1), text...), err
	case reflect.Slice:
		b = binary.AppendUvarint(b, uint64(v.Len())+1)
		for i := 0; i < v.Len() && err == nil; i++ {
			b, err = appendValue(b, v.Index(i))
		}
		return b, err
	}
	b = binary.AppendUvarint(b, uint64(v.Len())+1)
	for e := v.MapRange(); err == nil && e.Next(); {
		if b, err = appendValue(b, e.Key()); err == nil {
			b, err = appendValue(b, e.Value())
		}
	}
	return b, err
}

// Read reads what Append has written into the zero value that v points to, of the same type.
func Read(b []byte, v any) error {
	r := &reader{b}
	err := r.value(reflect.ValueOf(v).Elem())
	if err == nil && len(r.rest) > 0 {
		err = errors.New("compact: more than the value")
	}
	return err
}

type reader struct{ rest []byte }

func (r *reader) uvarint() (uint64, error) {
	n, used := binary.Uvarint(r.rest)
	if used <= 0 {
		return 0, errShort
	}
	r.rest = r.rest[used:]
	return n, nil
}

// take returns the next n bytes.
func (r *reader) take(n uint64) ([]byte, error) {
	if n > uint64(len(r.rest)) {
		return nil, errShort
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b, nil
}

func (r *reader) value(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Bool:
		b, err := r.take(1)
		v.SetBool(err == nil && b[0] != 0)
		return err
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, used := binary.Varint(r.rest)
		if used <= 0 {
			return errShort
		}
		r.rest = r.rest[used:]
		v.SetInt(n)
		return nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := r.uvarint()
		v.SetUint(n)
		return err
	case reflect.String:
		n, err := r.uvarint()
		if err != nil {
			return err
		}
		b, err := r.take(n)
		v.SetString(string(b))
		return err
	case reflect.Struct:
		for i := range v.NumField() {
			if err := r.value(v.Field(i)); err != nil {
				return err
			}
		}
		return nil
	}
	n, err := r.uvarint()
	if err != nil || n == 0 {
		return err
	}
	return r.elements(v, n-1)
}

func (r *reader) elements(v reflect.Value, n uint64) error {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return r.value(v.Elem())
	case reflect.Interface:
		text, err := r.take(n)
		if err != nil {
			return err
		}
		return json.Unmarshal(text, v.Addr().Interface())
	case reflect.Slice:
		if n > uint64(len(r.rest)) { // each element has a byte at least
			return errShort
		}
		v.Set(reflect.MakeSlice(v.Type(), int(n), int(n)))
		for i := range int(n) {
			if err := r.value(v.Index(i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range n {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			if err := errors.Join(r.value(key), r.value(value)); err != nil {
				return err
			}
			v.SetMapIndex(key, value)
		}
		return nil
	}
	return fmt.Errorf("compact: no form for %v", v.Type())
}
