package bench

import "syscall"

// stackAttr keeps Ctrl-C from the stack, which bench stops itself, and has the
// kernel stop it when bench is killed.
func stackAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
