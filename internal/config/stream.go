package config

import (
	"crypto/tls"
	"errors"
)

// streams checks the options of the streaming server.
func (c *Config) streams() (err error) {
	a := &c.API
	refuse := func(key, value, allowed string) { err = errors.Join(err, c.bad("crio.api", key, value, allowed)) }
	for _, f := range []struct {
		key, path string
		needed    bool
	}{
		{"stream_tls_cert", a.StreamTLSCert, true}, {"stream_tls_key", a.StreamTLSKey, true}, {"stream_tls_ca", a.StreamTLSCA, false},
	} {
		switch {
		case !a.StreamEnableTLS:
		case f.path == "" && f.needed:
			refuse(f.key, "", "a file is needed because stream_enable_tls is true")
		}
	}
	for _, name := range a.TLSCipherSuites {
		if _, ok := cipherSuite(name); !ok {
			refuse("tls_cipher_suites", name, "allowed are "+quoted(cipherSuites()))
		}
	}
	return err
}

// MinVersion is tls_min_version in the numbers of crypto/tls.
func (a *API) MinVersion() uint16 {
	if a.TLSMinVersion == "VersionTLS13" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// CipherSuites is tls_cipher_suites in the numbers of crypto/tls; nil: its choice.
func (a *API) CipherSuites() (list []uint16) {
	for _, name := range a.TLSCipherSuites {
		if id, ok := cipherSuite(name); ok {
			list = append(list, id)
		}
	}
	return list
}

func cipherSuite(name string) (uint16, bool) {
	for _, s := range tls.CipherSuites() {
		if s.Name == name && s.SupportedVersions[0] != tls.VersionTLS13 {
			return s.ID, true
		}
	}
	return 0, false
}

// cipherSuites are the names that can be chosen: those of TLS 1.2. TLS 1.3 has no
// choice.
func cipherSuites() (names []string) {
	for _, s := range tls.CipherSuites() {
		if _, ok := cipherSuite(s.Name); ok {
			names = append(names, s.Name)
		}
	}
	return names
}
