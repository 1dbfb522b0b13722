package keystore

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"testing"

	"onionbalancer/internal/locked/lockedtest"
)

// TestSecretsDoNotShow writes everything that holds a secret by every road
// that a value can take into a log or a file, and looks for the secret.
func TestSecretsDoNotShow(t *testing.T) {
	fresh := newKey(t)
	key := newDisk(t)
	if _, err := key.Certify(t.Context(), period, signingKey, hours); err != nil {
		t.Fatal(err)
	}
	revision, err := key.RevisionKey(t.Context(), period)
	if err != nil {
		t.Fatal(err)
	}
	sealedKey, _, _ := newSealedKey(t)
	sealedRevision, err := sealedKey.RevisionKey(t.Context(), period)
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := readSecret(key.path)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := parseTor(lockedtest.Bytes(raw), "FILE")
	if err != nil {
		t.Fatal(err)
	}
	secrets := [][]byte{lockedtest.Bytes(fresh.seed), fresh.key.Expanded(), fresh.key.Expanded()[32:], identity.Expanded(), identity.Expanded()[32:], revision.Bytes(), sealedRevision.Bytes()}
	type hidden struct {
		f *Fresh
		d *DiskKey
		c Custodian
	}
	for name, value := range map[string]any{
		"fresh": fresh, "fresh, copied": *fresh, "disk key": key, "custodian": Custodian(key),
		"unexported": hidden{fresh, key, key}, "pointer to unexported": &hidden{fresh, key, key},
		"slice": []any{fresh, key}, "map": map[string]any{"f": fresh, "d": key},
		"exported": struct {
			F *Fresh
			D *DiskKey
		}{fresh, key},
		"identity": identity, "sealed key": sealedKey, "sealed custodian": hidden{fresh, key, sealedKey},
	} {
		for road, text := range roads(value) {
			for _, secret := range secrets {
				if shows(text, secret) {
					t.Errorf("%s by %s shows a secret: %s", name, road, text)
				}
			}
		}
	}
	if got := fmt.Sprint(fresh); got != "[secret]" {
		t.Errorf("a fresh key prints as %q", got)
	}
	if got, want := fmt.Sprintf("%+v", key), "key of "+key.Address().Short(); got != want {
		t.Errorf("a key prints as %q, want %q", got, want)
	}
}

func roads(value any) map[string]string {
	out := make(map[string]string)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%p", "%t", "%e"} {
		out[verb] = fmt.Sprintf(verb, value)
	}
	if text, err := json.Marshal(value); err == nil {
		out["json"] = string(text)
	}
	if text, err := xml.Marshal(value); err == nil {
		out["xml"] = string(text)
	}
	var buf bytes.Buffer
	if err := gob.NewEncoder(&buf).Encode(value); err == nil {
		out["gob"] = buf.String()
	}
	for name, handler := range map[string]func(io.Writer) slog.Handler{
		"slog text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
		"slog json": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		var log bytes.Buffer
		slog.New(handler(&log)).Info("a message", "value", value)
		out[name] = log.String()
	}
	out["error"] = fmt.Errorf("wrapped: %v", value).Error()
	return out
}

// shows looks for the first bytes of secret in the notations that printing may
// give them.
func shows(text string, secret []byte) bool {
	start := secret[:6]
	list := strings.Trim(fmt.Sprint(start), "[]")
	var goSyntax []string
	for _, b := range start {
		goSyntax = append(goSyntax, fmt.Sprintf("0x%x", b))
	}
	for _, notation := range []string{
		string(start), strings.Trim(strconv.Quote(string(start)), `"`), list, strings.ReplaceAll(list, " ", ","), strings.Join(goSyntax, ", "),
		hex.EncodeToString(start), strings.ToUpper(hex.EncodeToString(start)),
		base64.StdEncoding.EncodeToString(start), strings.Trim(fmt.Sprintf("%o", start), "[]"),
		strings.Trim(fmt.Sprintf("%b", start), "[]"), strings.Trim(fmt.Sprintf("%U", start), "[]"),
	} {
		if strings.Contains(text, notation) {
			return true
		}
	}
	return false
}

// TestShows makes sure that the search would find a secret that is shown.
func TestShows(t *testing.T) {
	secret := []byte{200, 100, 50, 25, 250, 125, 1, 2}
	for road, text := range roads(struct{ hidden [8]byte }{[8]byte(secret)}) {
		found := shows(text, secret)
		if want := strings.HasPrefix(road, "%") && !strings.Contains("%s%q%c%p%t%e", road); want && !found {
			t.Errorf("%s is not seen in %s", road, text)
		}
	}
	for road, text := range roads(secret) {
		if (road == "json" || road == "gob" || road == "slog text" || road == "error") && !shows(text, secret) {
			t.Errorf("%s is not seen in %s", road, text)
		}
	}
	if _, err := json.Marshal(newKey(t)); err == nil {
		t.Error("a fresh key marshals")
	}
}
