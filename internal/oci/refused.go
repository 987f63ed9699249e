package oci

import (
	"errors"

	"github.com/monocrio/monocrio/internal/errs"
	"golang.org/x/sys/unix"
)

// Refused tells by its kind whom the kernel's refusal of a limit blames.
func Refused(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY): // version 1 of cgroups: what is used cannot be freed
		return errs.With(errs.KindPrecondition, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.ENOSPC):
		return errs.With(errs.KindInvalid, err)
	}
	return err
}
