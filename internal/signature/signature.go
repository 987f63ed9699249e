// Package signature checks detached signatures of files, in the form in which
// `cosign sign-blob --key` and `openssl dgst -sha256 -sign` make them: ECDSA on P-256
// over the file's SHA-256, as DER or base64 of it. Ed25519 over the bytes themselves is
// understood too. Keys are public ones in PEM (PKIX).
//
// It is how a node checks a release before it runs anything of it: one signature, one
// key that came another way, no network, no log, no clock.
package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
)

const (
	maxSmall = 16 << 10  // of a key or signature: what is larger is something else
	maxWhole = 512 << 20 // of a file that must be in memory as a whole: Ed25519 wants it so
)

// Key is a public key and the name of the file that it is from.
type Key struct {
	name string
	key  crypto.PublicKey // *ecdsa.PublicKey on P-256 or ed25519.PublicKey
}

// ReadKey reads a public key from a PEM file.
func ReadKey(path string) (*Key, error) {
	data, err := readSmall(path, "the key")
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errs.Errorf(errs.KindInvalid, "cannot use the key %s: it is no PEM file, which has a line -----BEGIN PUBLIC KEY-----", path)
	case strings.HasSuffix(block.Type, "SIGSTORE PRIVATE KEY") || strings.HasSuffix(block.Type, "COSIGN PRIVATE KEY"):
		return nil, private(path, "cosign public-key --key "+path)
	case strings.HasSuffix(block.Type, "PRIVATE KEY") || block.Type == "EC PARAMETERS":
		return nil, private(path, "openssl pkey -pubout -in "+path)
	case block.Type == "CERTIFICATE":
		return nil, errs.Errorf(errs.KindInvalid, "cannot use the key %s: it is a certificate; openssl x509 -in %s -noout -pubkey prints its key", path, path)
	case block.Type == "RSA PUBLIC KEY":
		return nil, unfit(path, "RSA")
	case block.Type != "PUBLIC KEY":
		return nil, errs.Errorf(errs.KindInvalid, "cannot use the key %s: it holds a %s and no PUBLIC KEY", path, block.Type)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errs.Errorf(errs.KindInvalid, "cannot use the key %s: it holds more than one; give one", path)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errs.Errorf(errs.KindInvalid, "cannot use the key %s: it is damaged: %w", path, err)
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, unfit(path, "ECDSA on "+k.Params().Name)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		return nil, unfit(path, "RSA")
	default:
		return nil, unfit(path, fmt.Sprintf("%T", key))
	}
	return &Key{path, key}, nil
}

func private(path, remedy string) error {
	return errs.Errorf(errs.KindInvalid, "cannot use the key %s: it is a private key, which only signs and stays with its owner; %s prints the public one", path, remedy)
}

func unfit(path, kind string) error {
	return errs.Errorf(errs.KindInvalid, "cannot use the key %s: it is for %s, and only ECDSA on P-256 and Ed25519 are known", path, kind)
}

// Verify tells whether the signature in one file is the key's for the other file.
func (k *Key) Verify(file, sigFile string) error {
	data, err := readSmall(sigFile, "the signature")
	if err != nil {
		return err
	}
	sigs := k.signatures(data)
	if len(sigs) == 0 {
		return errs.Errorf(errs.KindDenied, "cannot verify %s: %s holds no %s signature, neither as base64 nor in binary form", file, sigFile, k.kind())
	}
	check, err := k.checker(file)
	if err != nil {
		return err
	}
	for _, s := range sigs {
		if check(s) {
			return nil
		}
	}
	return errs.Errorf(errs.KindDenied, "cannot verify %s: the signature in %s is not by %s for this file: it was changed, or another key signed it", file, sigFile, k.name)
}

func (k *Key) kind() string {
	if _, ok := k.key.(ed25519.PublicKey); ok {
		return "Ed25519"
	}
	return "ECDSA"
}

// checker reads the file; what it returns compares signatures with it.
func (k *Key) checker(path string) (func(sig []byte) bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Errorf(errs.KindNotFound, "cannot verify: %w", err)
	}
	defer f.Close()
	if key, ok := k.key.(ed25519.PublicKey); ok {
		data, err := io.ReadAll(io.LimitReader(f, maxWhole+1))
		if err != nil {
			return nil, errs.Errorf(errs.KindInvalid, "cannot verify: %w", err)
		}
		if len(data) > maxWhole {
			return nil, errs.Errorf(errs.KindInvalid, "cannot verify %s: it is larger than %d MiB, which is too much for an Ed25519 key; sign with ECDSA on P-256", path, maxWhole>>20)
		}
		return func(sig []byte) bool { return ed25519.Verify(key, data, sig) }, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, errs.Errorf(errs.KindInvalid, "cannot verify: %w", err)
	}
	key, sum := k.key.(*ecdsa.PublicKey), h.Sum(nil)
	return func(sig []byte) bool { return ecdsa.VerifyASN1(key, sum, sig) }, nil
}

// signatures are what a file can mean: its bytes, or what they are as base64.
func (k *Key) signatures(data []byte) (all [][]byte) {
	text := strings.Join(strings.Fields(string(data)), "")
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil && k.wellFormed(raw) {
		all = append(all, raw)
	}
	if k.wellFormed(data) {
		all = append(all, data)
	}
	return all
}

func (k *Key) wellFormed(sig []byte) bool {
	if _, ok := k.key.(ed25519.PublicKey); ok {
		return len(sig) == ed25519.SignatureSize
	}
	var rs struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(sig, &rs)
	return err == nil && len(rest) == 0
}

// readSmall reads a file that is small if it is what it should be.
func readSmall(path, what string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Errorf(errs.KindNotFound, "cannot read %s: %w", what, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	switch {
	case err != nil:
		return nil, errs.Errorf(errs.KindInvalid, "cannot read %s: %w", what, err)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, errs.Errorf(errs.KindInvalid, "cannot read %s: %s is empty", what, path)
	case len(data) > maxSmall:
		return nil, errs.Errorf(errs.KindInvalid, "cannot read %s: %s has more than %d bytes, so it is something else", what, path, maxSmall)
	}
	return data, nil
}
