package cri

import (
	"errors"

	"github.com/monocrio/monocrio/internal/errs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// code is the gRPC code of a kind of failure: the only such table.
func code(k errs.Kind) codes.Code {
	switch k {
	case errs.KindNotFound:
		return codes.NotFound
	case errs.KindAlreadyExists:
		return codes.AlreadyExists
	case errs.KindInvalid:
		return codes.InvalidArgument
	case errs.KindPrecondition:
		return codes.FailedPrecondition
	case errs.KindUnavailable:
		return codes.Unavailable
	case errs.KindExhausted:
		return codes.ResourceExhausted
	case errs.KindDeadline:
		return codes.DeadlineExceeded
	case errs.KindCanceled:
		return codes.Canceled
	case errs.KindUnimplemented:
		return codes.Unimplemented
	case errs.KindDenied:
		return codes.PermissionDenied
	}
	return codes.Internal
}

// clientGone tells whether a message could not be sent because the caller gave up.
func clientGone(err error) bool {
	c := status.Code(err)
	return c == codes.Canceled || c == codes.DeadlineExceeded
}

// toStatus turns an error into what the kubelet gets. Errors that are a status
// already are left as they are. The kubelet finds its well-known reasons at the
// beginning of the text.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	text := err.Error()
	if r := errs.Reason(""); errors.As(err, &r) {
		text = string(r) + ": " + text
	}
	return status.Error(code(errs.KindOf(err)), text)
}
