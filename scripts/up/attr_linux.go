package up

import "syscall"

// childAttr keeps Ctrl-C from a child and has the kernel kill it when the
// thread that started it is gone.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
