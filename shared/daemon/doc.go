// Package daemon is what every process needs besides its work: settings from
// flags and environment, a log, health and metrics over HTTP, signals and an
// exit code. A main function is
//
//	func main() { os.Exit(daemon.Main(run)) }
//
// and nothing below it ends the process, with one stated exception: [Fault].
package daemon
