package crio

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/monocrio/monocrio/internal/signature"
	"github.com/spf13/cobra"
)

// verifyCommand checks a release, so that a node needs no other program to do it.
func verifyCommand() *cobra.Command {
	var key, sig string
	cmd := &cobra.Command{Use: "verify --key KEY FILE", Short: "tell whether a file is signed by a key",
		Long: "Tell whether a file, such as a bundle of this program, is what the owner of a key has signed. The signature is that of `cosign sign-blob --key` or `openssl dgst -sha256 -sign`: " +
			"ECDSA on P-256 over the file's SHA-256, binary or as base64; or Ed25519 over the file itself. Nothing but the three files is read: no network, no log, no clock. " +
			"The exit status is 0 only if the signature is the key's for this file.",
		Args: oneFile, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" {
				return errors.New("cannot verify: --key names the file with the public key")
			}
			k, err := signature.ReadKey(key)
			if err != nil {
				return err
			}
			if err := k.Verify(args[0], cmp.Or(sig, args[0]+".sig")); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: signed by %s\n", args[0], key)
			return nil
		}}
	cmd.Flags().StringVarP(&key, "key", "k", "", "file with the public key, in PEM form")
	cmd.Flags().StringVarP(&sig, "signature", "s", "", "file with the signature (default FILE.sig)")
	return cmd
}

func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one file, and %d are given", cmd.CommandPath(), len(args))
	}
	return nil
}
