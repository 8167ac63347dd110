package pagetest

import "reflect"

// maxDepth limits the depth to which values are looked at.
const maxDepth = 64

// visible returns the bytes of memory that a value takes, its own words included, as far as they can be seen: those of
// arrays, slices, strings, pointers and of the keys and values of maps.
func visible(v reflect.Value, depth int) int { return int(v.Type().Size()) + behind(v, depth) }

// behind returns the bytes of memory that lie behind the pointers of a value.
func behind(v reflect.Value, depth int) (n int) {
	if depth++; depth > maxDepth {
		return 0
	}
	switch v.Kind() {
	case reflect.String:
		return v.Len()
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice {
			n = v.Len() * int(v.Type().Elem().Size())
		}
		if hasPointers(v.Type().Elem()) {
			for i := range v.Len() {
				n += behind(v.Index(i), depth)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n += behind(v.Field(i), depth)
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			n = visible(v.Elem(), depth)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			n += visible(it.Key(), depth) + visible(it.Value(), depth)
		}
	}
	return n
}

// hasPointers reports whether values of a type may have memory behind them.
func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return hasPointers(t.Elem())
	case reflect.String, reflect.Slice, reflect.Struct, reflect.Pointer, reflect.Interface, reflect.Map:
		return true
	}
	return false
}

// roomBehind returns for how many elements a slice in v that lies in src, before its end, has room behind it; 0 if no
// slice has any.
func roomBehind(v reflect.Value, src []byte) int {
	if cap(src) == 0 {
		return 0
	}
	from := reflect.ValueOf(src).Pointer()
	return room(v, from, from+uintptr(cap(src)), 0)
}

func room(v reflect.Value, from, to uintptr, depth int) (n int) {
	if depth++; depth > maxDepth {
		return 0
	}
	switch v.Kind() {
	case reflect.Slice:
		if p := v.Pointer(); p >= from && p < to {
			n = v.Cap() - v.Len()
		}
		fallthrough
	case reflect.Array:
		for i := 0; n == 0 && hasPointers(v.Type().Elem()) && i < v.Len(); i++ {
			n = room(v.Index(i), from, to, depth)
		}
	case reflect.Struct:
		for i := 0; n == 0 && i < v.NumField(); i++ {
			n = room(v.Field(i), from, to, depth)
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			n = room(v.Elem(), from, to, depth)
		}
	case reflect.Map:
		for it := v.MapRange(); n == 0 && it.Next(); {
			n = max(room(it.Key(), from, to, depth), room(it.Value(), from, to, depth))
		}
	}
	return n
}
