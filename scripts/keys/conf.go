package keys

import (
	"fmt"
	"strings"

	"rollcall/scripts/internal/file"
)

// ConfFile is the file for nats-server's configuration to include.
const ConfFile = "auth.conf"

// writeConf writes what a NATS server must be told to trust the operator, apart
// from where it shall keep the accounts. Those in the file are where it starts
// from; of one that it knows a newer version of, it keeps that.
func (r *Ring) writeConf() error {
	operator, err := r.OperatorJWT()
	if err != nil {
		return err
	}
	accounts, err := r.AccountJWTs()
	if err != nil {
		return err
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by bin/token and bin/up; nats.conf includes it. It holds no secret.")
	line("operator: %s", operator)
	line("system_account: %s", r.SystemAccount())
	line("resolver_preload {")
	for _, name := range accountNames() {
		line("  %s: %s", r.accounts[name], accounts[r.accounts[name]])
	}
	line("}")
	return file.Replace(r.path(ConfFile), []byte(b.String()))
}
