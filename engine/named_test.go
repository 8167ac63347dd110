package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
)

// named is a page type with a name.
type named struct {
	engine.Bytes
	name string
}

// Format implements engine.Named.
func (n named) Format() string { return n.name }

// A store with a name is opened only by page types of that name: others are refused before anything is written (rule
// 17). A store without a name can be opened by all, and takes the name of the first that has one and may write.
func TestPageTypesNameTheirFormat(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	open := func(m engine.Materializer[[]byte], readOnly bool) error {
		t.Helper()
		o := enginetest.SimOptions(d)
		o.ReadOnly = readOnly
		before := fmt.Sprint(enginetest.Files(t, d))
		pc, err := engine.Open("/store", m, o)
		if err == nil {
			enginetest.Watch(t, pc, o)
			enginetest.Close(t, pc) // checks it
		}
		if after := fmt.Sprint(enginetest.Files(t, d)); (err != nil || readOnly) && after != before {
			t.Errorf("%v, read only %v, error %v: the opening has changed the store", m, readOnly, err)
		}
		return err
	}
	if err := d.MkdirAll("/store"); err != nil {
		t.Fatal(err)
	}
	var none, other = engine.Bytes{}, named{name: "other"}
	own := named{name: "example.com/orders v3"}
	for i, step := range []struct {
		m        engine.Materializer[[]byte]
		readOnly bool
		refused  bool
	}{
		{m: none}, {m: named{}}, {m: other, readOnly: true}, // which leaves no name
		{m: own}, {m: own}, {m: own, readOnly: true},
		{m: other, refused: true}, {m: other, readOnly: true, refused: true}, {m: none, refused: true},
		{m: none, readOnly: true, refused: true}, {m: named{}, refused: true}, {m: own},
	} {
		err := open(step.m, step.readOnly)
		if step.refused != errors.Is(err, engine.ErrFormat) || !step.refused && err != nil {
			t.Errorf("step %d, %+v: error %v", i, step, err)
		}
		if step.refused && !strings.Contains(err.Error(), own.name) {
			t.Errorf("step %d: the error does not name the store's format: %v", i, err)
		}
	}
	d = simdisk.New(2, simdisk.Options{})
	if err := d.MkdirAll("/store"); err != nil {
		t.Fatal(err)
	}
	longest := named{name: strings.Repeat("n", 255)}
	if err := open(named{name: longest.name + "n"}, false); err == nil || errors.Is(err, engine.ErrFormat) {
		t.Errorf("a name of 256 bytes: error %v", err)
	}
	if err := open(longest, false); err != nil {
		t.Errorf("a name of 255 bytes: %v", err)
	}
}

// A name is durable once Open has returned. Salvage keeps it.
func TestFormatNameSurvives(t *testing.T) {
	d := simdisk.New(1, simdisk.Options{})
	own := named{name: "orders"}
	pc := enginetest.OpenWith(t, "/store", own, enginetest.SimOptions(d))
	enginetest.NoCheck(t, pc)
	tx := enginetest.Begin(t, pc)
	_, ptr, err := pc.Allocate(tx, []byte("value"))
	tx.End()
	if err == nil {
		_, err = pc.MakeStable(ptr.LastLSN())
	}
	if err != nil {
		t.Fatal(err)
	}
	after := d.Crash(1)
	o := enginetest.SimOptions(after)
	if _, err := engine.Open("/store", engine.Bytes{}, o); !errors.Is(err, engine.ErrFormat) {
		t.Errorf("opened without a name after a crash: error %v, want ErrFormat", err)
	}
	if _, err := engine.Salvage("/store", "/saved", o, nil); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/store", "/saved"} {
		if _, err := engine.Open(dir, named{name: "other"}, o); !errors.Is(err, engine.ErrFormat) {
			t.Errorf("%s opened with another name: error %v, want ErrFormat", dir, err)
		}
		pc := enginetest.OpenWith(t, dir, own, o)
		if p := enginetest.Get(t, pc, engine.FirstUserPage); string(p.Value) != "value" {
			t.Errorf("%s: page holds %q, want \"value\"", dir, p.Value)
		}
		enginetest.Close(t, pc)
	}
}
