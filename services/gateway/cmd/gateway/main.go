// Command gateway runs one gateway process.
package main

import (
	"os"

	"rollcall/services/gateway"
	"rollcall/shared/daemon"
)

func main() { os.Exit(daemon.Main(gateway.Main)) }
