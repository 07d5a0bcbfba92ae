// Command presence runs one presence process; see package presence.
package main

import (
	"os"

	"rollcall/services/presence"
	"rollcall/shared/daemon"
)

func main() {
	os.Exit(daemon.Main(presence.Main))
}
