package keystore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"onionbalancer/descriptor"
	"onionbalancer/internal/durable"
	"onionbalancer/internal/locked"
	"onionbalancer/keystore/sealed"
	"onionbalancer/keystore/token"
)

// fakeSealer is a fakeUnsealer that seals too, with calls that can fail.
type fakeSealer struct {
	fakeUnsealer
	failing map[string]error // by call
}

func (f *fakeSealer) Info(context.Context) (token.Info, error) {
	return token.Info{Selector: token.Selector{Label: "front desk", Serial: "4711"}}, f.failing["info"]
}

func (f *fakeSealer) WrappingKey(_ context.Context, o token.Object) (token.WrappingKey, error) {
	return token.WrappingKey{Object: token.Object{Label: o.Label, ID: []byte{7}}, Methods: []token.Method{token.MethodAESKeyWrap}}, f.failing["key"]
}

func (f *fakeSealer) Wrap(_ context.Context, o token.Object, m token.Method, secret *locked.Buffer) ([]byte, error) {
	if o.Label != "seal" || !bytes.Equal(o.ID, []byte{7}) {
		return nil, token.Errorf(token.CodeNoKey, "no key %v", o)
	}
	wrapped, _ := mask(m, secret)
	return wrapped, f.failing["wrap"]
}

// TestSealTo seals to a file that another process opens.
func TestSealTo(t *testing.T) {
	key, fake := newKey(t).Identity(), new(fakeSealer)
	path := filepath.Join(t.TempDir(), "new", "front.sealed")
	file, err := sealOne(t.Context(), key, fake, path)
	if err != nil {
		t.Fatal(err)
	}
	if file.Method() != token.MethodAESKeyWrap || file.Token().Serial != "4711" || file.Object().Label != "seal" || !bytes.Equal(file.Object().ID, []byte{7}) {
		t.Errorf("sealed by %s with %v of %v", file.Method(), file.Object(), file.Token())
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if files := readDir(t, filepath.Dir(path)); len(files) != 1 {
		t.Errorf("%d files are there", len(files))
	}
	opened := newSealed(path, token.Object{Label: "seal"}, key.Address(), fake)
	again, err := opened.Unseal(t.Context())
	if err != nil || !same(key, again) {
		t.Errorf("another key, %v", err)
	}
	if _, err := sealOne(t.Context(), key, fake, path); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwriting: %v", err)
	}
}

// TestSealToFails: whatever fails, no file is left, and the code is kept.
func TestSealToFails(t *testing.T) {
	trouble := token.Errorf(token.CodeExposed, "trouble")
	other := newKey(t).Identity()
	for name, c := range map[string]struct {
		fake *fakeSealer
		want string
	}{
		"info":    {&fakeSealer{failing: map[string]error{"info": trouble}}, "trouble"},
		"key":     {&fakeSealer{failing: map[string]error{"key": trouble}}, "trouble"},
		"wrap":    {&fakeSealer{failing: map[string]error{"wrap": trouble}}, "trouble"},
		"unseal":  {&fakeSealer{fakeUnsealer: fakeUnsealer{fail: trouble}}, "unsealing the file"},
		"other":   {&fakeSealer{fakeUnsealer: fakeUnsealer{other: other}}, "another key than the sealed one"},
		"certify": {&fakeSealer{fakeUnsealer: fakeUnsealer{wrong: func(c *descriptor.HourlyCertificates) { *c = descriptor.HourlyCertificates{} }}}, "differs from one by the key itself"},
	} {
		dir := t.TempDir()
		_, err := sealOne(t.Context(), newKey(t).Identity(), c.fake, filepath.Join(dir, "front.sealed"))
		wantError(t, name, err, c.want)
		if strings.HasPrefix(c.want, "trouble") && !errors.Is(err, &token.Error{Code: token.CodeExposed}) {
			t.Errorf("%s: the code is lost in %v", name, err)
		}
		if files := readDir(t, dir); len(files) != 0 {
			t.Errorf("%s: left behind: %v", name, files)
		}
	}
}

// TestWriteChecked: a file that appears meanwhile is not overwritten.
func TestWriteChecked(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "front.sealed")
	err := durable.WriteChecked(path, []byte("new"), func(written string) error {
		if content, err := os.ReadFile(written); err != nil || string(content) != "new" {
			t.Errorf("written is %q, %v", content, err)
		}
		return os.WriteFile(path, []byte("mine"), 0o600)
	})
	if files := readDir(t, dir); !errors.Is(err, os.ErrExist) || len(files) != 1 || files["front.sealed"] != "mine" {
		t.Errorf("the directory holds %q, %v", files, err)
	}
	if err := CheckNew(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("a path that is taken: %v", err)
	}
	if err := CheckNew(path + "/x"); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that cannot be: %v", err)
	}
}

// sealOne seals as SealTo does.
func sealOne(ctx context.Context, key *descriptor.IdentityKey, fake sealer, path string) (*sealed.File, error) {
	s, err := newSealer(ctx, fake, token.Object{Label: "seal"})
	if err != nil {
		return nil, err
	}
	return s.Seal(ctx, key, path)
}
