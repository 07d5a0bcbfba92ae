//go:build unix && !linux

package up

import "syscall"

// childAttr keeps Ctrl-C from a child.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
