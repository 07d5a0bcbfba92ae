//go:build unix && !linux

package bench

import "syscall"

// stackAttr keeps Ctrl-C from the stack, which bench stops itself.
func stackAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
