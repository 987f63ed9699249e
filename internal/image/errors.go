package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os/exec"
	"reflect"
	"syscall"
	"time"

	"github.com/docker/distribution/registry/api/errcode"
	"github.com/monocrio/monocrio/internal/errs"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

// pullError gives an error of the libraries its kind and its remedy. What a type
// does not tell is found out by asking the registry once more.
func pullError(err error, n reference.Named, sys *types.SystemContext) error {
	if known, ok := knownError(err); ok {
		return known
	}
	if code, found := statusCode(err); found {
		return statusError(code, err, sys)
	}
	if reg, e := sysregistriesv2.FindRegistry(sys, n.Name()); e == nil && reg != nil && reg.Blocked {
		return errs.Errorf(errs.KindDenied, "registries.conf blocks %s", reg.Prefix)
	}
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		return errs.Errorf(errs.KindUnavailable, "%.0wthe registry's certificate is not trusted; put its CA into certs_dir/HOST:PORT/ca.crt: %w", errs.RegistryUnavailable, err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return errs.Errorf(errs.KindUnavailable, "%.0wthe registry speaks plain HTTP; allow it by insecure = true in registries.conf: %w", errs.RegistryUnavailable, err)
	case unreachable(err):
		return errs.Errorf(errs.KindUnavailable, "%.0wthe registry cannot be reached or breaks off: %w", errs.RegistryUnavailable, err)
	case local(err):
		return err
	}
	return diagnose(err, n, sys)
}

// knownError is an error that has nothing to do with a registry.
func knownError(err error) (error, bool) {
	var (
		policy signature.PolicyRequirementError
		signed signature.InvalidSignatureError
		kinded *errs.Error
	)
	switch {
	case errors.As(err, &kinded):
		return err, true
	case errors.As(err, &policy), errors.As(err, &signed):
		return errs.Errorf(errs.KindDenied, "%.0wthe signature policy (policy.json) refuses it: %w", errs.SignatureValidationFailed, err), true
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return errs.Errorf(errs.KindExhausted, "the disk of the image store is full; remove images or enlarge it: %w", err), true
	}
	return err, false
}

// statusCode finds the HTTP status that an error stands for. One of the library's
// types has no exported name but an exported field, hence the look by reflection.
func statusCode(err error) (int, bool) {
	var (
		login docker.ErrUnauthorizedForCredentials
		code  errcode.Error
	)
	switch {
	case errors.As(err, &login):
		return 401, true
	case errors.Is(err, docker.ErrTooManyRequests):
		return 429, true
	case errors.As(err, &code):
		return code.Code.Descriptor().HTTPStatusCode, true
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if list, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range list.Unwrap() {
				if c, found := statusCode(e); found {
					return c, true
				}
			}
		}
		v := reflect.Indirect(reflect.ValueOf(err))
		if v.Kind() != reflect.Struct {
			continue
		}
		if f, ok := v.Type().FieldByName("StatusCode"); ok && len(f.Index) == 1 && f.Type.Kind() == reflect.Int {
			return int(v.FieldByIndex(f.Index).Int()), true
		}
	}
	return 0, false
}

func statusError(code int, err error, sys *types.SystemContext) error {
	switch {
	case code == 404:
		return errs.Errorf(errs.KindNotFound, "the registry has no such image; check the name and the tag: %w", err)
	case (code == 401 || code == 403) && sys.DockerAuthConfig == nil && sys.DockerBearerRegistryToken == "":
		return errs.Errorf(errs.KindDenied, "the registry asks for credentials, or hides that there is no such image; give some by imagePullSecrets or global_auth_file: %w", err)
	case code == 401 || code == 403:
		return errs.Errorf(errs.KindDenied, "the registry refuses the credentials of the request: %w", err)
	case code >= 500 || code == 429:
		return errs.Errorf(errs.KindUnavailable, "%.0wthe registry is out of order or overloaded (HTTP %d): %w", errs.RegistryUnavailable, code, err)
	}
	return err
}

func unreachable(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// local tells whether the cause lies on this machine: a file, a process, the kernel.
func local(err error) bool {
	var (
		file  *fs.PathError
		child *exec.ExitError
		errno syscall.Errno
	)
	return errors.As(err, &file) || errors.As(err, &child) || errors.As(err, &errno)
}

// diagnoseTime bounds the extra questions to a registry after a failure.
const diagnoseTime = 10 * time.Second

// diagnose tells, for an error without a type, an image for other machines from one
// that is broken.
func diagnose(err error, n reference.Named, sys *types.SystemContext) error {
	bad := errs.Errorf(errs.KindUnavailable, "what the registry sends cannot be used; pull again, or push the image again: %w", err)
	ctx, cancel := context.WithTimeout(context.Background(), diagnoseTime)
	defer cancel()
	ref, e := docker.NewReference(n)
	if e != nil {
		return bad
	}
	src, e := ref.NewImageSource(ctx, sys)
	if e != nil {
		return bad
	}
	defer src.Close()
	data, mediaType, e := src.GetManifest(ctx, nil)
	if e != nil || !manifest.MIMETypeIsMultiImage(mediaType) {
		return bad
	}
	list, e := manifest.ListFromBlob(data, mediaType)
	if e != nil {
		return bad
	}
	if _, e = list.ChooseInstance(sys); e != nil {
		return errs.Errorf(errs.KindNotFound, "there is no such image for this machine's platform: %w", err)
	}
	return bad
}

// panicked is the error of a pull that panicked.
func panicked(ref string, p any) error {
	return fmt.Errorf("cannot pull %s: it panicked: %v; please report this", ref, p)
}

// FailureCode is a registry's word for an error of Pull, as the distribution
// specification writes it, or NOT_FOUND, CONNECTION_REFUSED, CONNECTION_TIMEOUT, UNKNOWN.
func FailureCode(err error) string {
	var (
		code    errcode.Error
		timeout net.Error
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &code) && code.Code.Descriptor().Value != "":
		return code.Code.Descriptor().Value
	case errs.Is(err, errs.KindNotFound):
		return "NOT_FOUND"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "CONNECTION_REFUSED"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "CONNECTION_TIMEOUT"
	}
	return "UNKNOWN"
}
