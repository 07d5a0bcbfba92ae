// Command lease runs one lease process; see package lease.
package main

import (
	"os"

	"rollcall/services/lease"
	"rollcall/shared/daemon"
)

func main() {
	os.Exit(daemon.Main(lease.Main))
}
