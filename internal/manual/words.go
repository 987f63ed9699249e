package manual

import (
	"fmt"

	"github.com/spf13/cobra"
)

// Words checks how many words follow a command, for cobra, and says what is wrong with
// them in words of ours; most -1 is no limit.
func Words(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("something is missing; usage: %s", cmd.UseLine())
		case most >= 0 && len(args) > most:
			return fmt.Errorf("%q is one word too many; usage: %s", args[most], cmd.UseLine())
		}
		return nil
	}
}
