// Package registry is a small image registry for tests and for the demonstration:
// it serves images made here over the OCI distribution protocol, on loopback, and
// can misbehave in the ways that real ones do.
package registry

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Registry is a store of blobs and manifests with an HTTP face. The zero value is
// empty and well-behaved.
type Registry struct {
	mu        sync.Mutex
	blobs     map[string][]byte   // by digest
	manifests map[string]manifest // by "name@digest" and "name:tag"

	faults Faults
	login  string // "user:password" that is asked for; "" for none
	bearer string // token that is given for the login; "" for basic authentication

	// Blobs and Manifests count the requests that were answered with content.
	Blobs, Manifests atomic.Int64
}

type manifest struct {
	mediaType string
	data      []byte
	digest    string
}

// Faults are ways to misbehave.
type Faults struct {
	// CutBlobs ends every transfer of a blob half way.
	CutBlobs bool
	// WrongBlobs sends other bytes than the digest promises.
	WrongBlobs bool
	// Unavailable answers 503 to all.
	Unavailable bool
	// Garbage sends manifests that are no JSON.
	Garbage bool
	// TooMany answers 429 to requests for manifests.
	TooMany bool
	// BlobsOver restricts the faults of blobs to those of more bytes.
	BlobsOver int
	// Delay is waited before each blob; Stall stops a blob's transfer in its middle
	// for as long.
	Delay, Stall time.Duration
}

// SetFaults replaces the faults.
func (r *Registry) SetFaults(f Faults) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = f
}

// SetLogin asks for credentials from now on, directly or (with a token) through an
// authorization service, which is this registry too.
func (r *Registry) SetLogin(user, password, token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.login, r.bearer = user+":"+password, token
}

// Serve answers on a loopback port until the listener is closed, and returns the
// address.
func (r *Registry) Serve() (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{Handler: r}
	go s.Serve(l)
	return l.Addr().String(), func() { s.Close() }, nil
}

// ServeTLS is Serve over HTTPS. The certificate that clients must trust is returned
// as PEM; it names 127.0.0.1 and its issuer is nobody else.
func (r *Registry) ServeTLS() (addr string, ca []byte, stop func()) {
	s := httptest.NewUnstartedServer(r)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it are part of the tests
	s.StartTLS()
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return s.Listener.Addr().String(), ca, s.Close
}

// Digest is the digest of some bytes, as registries write it.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// AddBlob keeps a blob and returns its digest.
func (r *Registry) AddBlob(data []byte) string {
	d := Digest(data)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.blobs == nil {
		r.blobs = map[string][]byte{}
	}
	r.blobs[d] = data
	return d
}

// Blob returns a blob, nil if it is not there.
func (r *Registry) Blob(digest string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs[digest]
}

// AddManifest keeps a manifest under its digest and, if tag is not empty, a tag.
func (r *Registry) AddManifest(name, tag, mediaType string, data []byte) string {
	m := manifest{mediaType: mediaType, data: data, digest: Digest(data)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.manifests == nil {
		r.manifests = map[string]manifest{}
	}
	r.manifests[name+"@"+m.digest] = m
	if tag != "" {
		r.manifests[name+":"+tag] = m
	}
	return m.digest
}

// ServeHTTP implements the pull half of the distribution protocol.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	f := r.faults
	r.mu.Unlock()
	switch {
	case f.Unavailable:
		http.Error(w, "out of order", http.StatusServiceUnavailable)
	case req.URL.Path == "/token":
		r.token(w, req)
	case !r.allowed(w, req):
	case req.URL.Path == "/v2/" || req.URL.Path == "/v2":
		w.Write([]byte("{}"))
	default:
		r.content(w, req, f)
	}
}

func (r *Registry) token(w http.ResponseWriter, req *http.Request) {
	user, password, _ := req.BasicAuth()
	if user+":"+password != r.login {
		http.Error(w, "wrong password", http.StatusUnauthorized)
		return
	}
	json.NewEncoder(w).Encode(map[string]string{"token": r.bearer})
}

// allowed checks the credentials and asks for them if they are missing.
func (r *Registry) allowed(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	login, bearer := r.login, r.bearer
	r.mu.Unlock()
	want, challenge := "", ""
	switch {
	case login == "":
		return true
	case bearer != "":
		want, challenge = "Bearer "+bearer, fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, req.Host)
	default:
		want, challenge = "Basic "+base64.StdEncoding.EncodeToString([]byte(login)), `Basic realm="test"`
	}
	if req.Header.Get("Authorization") == want {
		return true
	}
	w.Header().Set("WWW-Authenticate", challenge)
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
	return false
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"test registry"}]}`, code)
}

func (r *Registry) content(w http.ResponseWriter, req *http.Request, f Faults) {
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	if name, ref, ok := strings.Cut(path, "/manifests/"); ok {
		key := name + ":" + ref
		if strings.Contains(ref, ":") {
			key = name + "@" + ref
		}
		r.mu.Lock()
		m, there := r.manifests[key]
		r.mu.Unlock()
		if !there {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
			return
		}
		if f.TooMany {
			w.Header().Set("Retry-After", "0")
			fail(w, http.StatusTooManyRequests, "TOOMANYREQUESTS")
			return
		}
		r.Manifests.Add(1)
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Docker-Content-Digest", m.digest)
		if f.Garbage {
			m.data = []byte("{ this is no JSON")
		}
		w.Write(m.data)
		return
	}
	_, digest, _ := strings.Cut(path, "/blobs/")
	r.mu.Lock()
	data, there := r.blobs[digest]
	r.mu.Unlock()
	if !there {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	r.Blobs.Add(1)
	sendBlob(w, req, data, f)
}

func sendBlob(w http.ResponseWriter, req *http.Request, data []byte, f Faults) {
	if len(data) <= f.BlobsOver {
		f = Faults{}
	}
	time.Sleep(f.Delay)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	if f.WrongBlobs {
		data = append([]byte{}, data...)
		data[len(data)/2] ^= 0xff
	}
	half := len(data) / 2
	w.Write(data[:half])
	if f.Stall > 0 || f.CutBlobs {
		w.(http.Flusher).Flush()
		select {
		case <-time.After(f.Stall):
		case <-req.Context().Done():
		}
	}
	if f.CutBlobs {
		panic(http.ErrAbortHandler)
	}
	w.Write(data[half:])
}
