// Package errs names the kinds of failure.
//
// A kind is attached where the fact is known, travels up inside ordinary wrapped
// errors, and becomes a gRPC code in one place (package cri). Nobody reads error
// text. Messages are lower case, "cannot VERB OBJECT: cause", and tell the remedy
// when there is one.
package errs

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is.
type Kind uint8

// The kinds; the comment names the gRPC code that package cri gives them.
const (
	KindInternal      Kind = iota // Internal: a bug, or the kernel said no
	KindNotFound                  // NotFound: an object that should exist does not
	KindAlreadyExists             // AlreadyExists: the name is held by another object
	KindInvalid                   // InvalidArgument: the request cannot be meant
	KindPrecondition              // FailedPrecondition: wrong state for the verb
	KindUnavailable               // Unavailable: not ready yet, try again
	KindExhausted                 // ResourceExhausted: a limit is reached
	KindDeadline                  // DeadlineExceeded: a time limit passed
	KindCanceled                  // Canceled: the caller went away
	KindUnimplemented             // Unimplemented: runtime or node lacks the feature
	KindDenied                    // PermissionDenied: policy or credentials refuse
)

// Error is a failure with a kind.
type Error struct {
	Kind  Kind
	cause error
}

// Error returns the text.
func (e *Error) Error() string { return e.cause.Error() }

// Unwrap returns the failure without its kind.
func (e *Error) Unwrap() error { return e.cause }

// Reason is a word by which the kubelet knows a failure and shows it to users
// (k8s.io/cri-api/pkg/errors). It is wrapped without text, by %.0w, where the fact is
// known, and package cri puts it first in the message.
type Reason string

// The reasons.
const (
	RegistryUnavailable       Reason = "RegistryUnavailable"
	SignatureValidationFailed Reason = "SignatureValidationFailed"
	RROUnsupported            Reason = "RROUnsupported"
	ImageVolumeMountFailed    Reason = "ImageVolumeMountFailed"
)

// Error returns the word.
func (r Reason) Error() string { return string(r) }

// Errorf makes an error of a kind; the format is that of fmt.Errorf, %w included.
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, cause: fmt.Errorf(format, args...)}
}

// With attaches a kind to an error; nil stays nil.
func With(k Kind, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: k, cause: err}
}

// NotFound says that there is no such object, for example
// errs.NotFound("container", id).
func NotFound(what, id string) error {
	return Errorf(KindNotFound, "there is no %s %q", what, id)
}

// Invalid says that a request or a file cannot be meant as it is.
func Invalid(format string, args ...any) error { return Errorf(KindInvalid, format, args...) }

// Precondition says that the object is in the wrong state for the verb.
func Precondition(format string, args ...any) error { return Errorf(KindPrecondition, format, args...) }

// Unavailable says that something is not ready and that a later try may succeed.
func Unavailable(format string, args ...any) error { return Errorf(KindUnavailable, format, args...) }

// Unimplemented says that the node, the runtime or this program lacks a feature.
func Unimplemented(format string, args ...any) error {
	return Errorf(KindUnimplemented, format, args...)
}

// KindOf returns the outermost kind in the chain. Errors of package context count
// as KindDeadline and KindCanceled; an error without any kind is KindInternal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return KindDeadline
	case errors.Is(err, context.Canceled):
		return KindCanceled
	}
	return KindInternal
}

// Is tells whether the kind of err is k. It is false for nil.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }
