package gateway

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// caller is who makes a request, as far as the network tells.
type caller struct {
	addr netip.Addr
	// host is by what the limits per address count it: the address or, of IPv6, its
	// network. It is invalid for this machine, which they exempt.
	host netip.Addr
	// secure says that the peer speaks TLS, with us or with a proxy that we trust.
	secure bool
}

// proxies are the hosts that are believed when they say for whom they ask.
type proxies []netip.Prefix

// caller finds out who makes a request. That is the host at the other end of the
// connection, or, if that is a trusted proxy, the last hop before the trusted ones.
//
// What stands left of that hop came from the peer itself and is not looked at. A proxy
// that writes one of the three headers lets the others through as the peer sent them,
// so whoever they name must be the same: where they differ, or where what counts cannot
// be read, it is the proxy itself that asks.
//
// This machine is under no limit per address where it asks for itself. What carries a
// header of proxies is somebody else's, whatever the header says: who could spoil it
// would be under no limit behind a proxy on this machine.
func (p proxies) caller(r *http.Request) caller {
	c := p.asker(r)
	if !c.addr.IsLoopback() || isForwarded(r) {
		c.host = hostOf(c.addr)
	}
	return c
}

// isForwarded reports whether a request carries a header that proxies write, trusted
// ones or not.
func isForwarded(r *http.Request) bool {
	return slices.ContainsFunc([]string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "X-Forwarded-Proto"}, func(name string) bool {
		return len(r.Header.Values(name)) > 0
	})
}

// v6Host is how much of an IPv6 address is one host's: it picks the rest itself.
const v6Host = 64

// hostOf is an address as the limits count it.
func hostOf(addr netip.Addr) netip.Addr {
	if !addr.Is6() || addr.IsLoopback() {
		return addr
	}
	network, _ := addr.Prefix(v6Host) // an IPv6 address has that many bits
	return network.Addr()
}

// asker is caller without what limits count it by.
func (p proxies) asker(r *http.Request) caller {
	remote := remoteAddr(r)
	c := caller{addr: remote, secure: r.TLS != nil}
	if !p.trusts(remote) {
		return c
	}
	forwarded, ok := parseForwarded(r.Header.Values("Forwarded"))
	if !ok {
		return c
	}
	hops := make([]string, len(forwarded))
	for i, element := range forwarded {
		hops[i] = element.hop
	}
	at, addr, ok := p.lastBeforeUs([][]string{hops, listOf(r.Header.Values("X-Forwarded-For")), listOf(r.Header.Values("X-Real-Ip"))})
	if !ok {
		at = len(forwarded) - 1
	}
	// Nobody asks from a proxy's own loopback; who seems to would be under no limit.
	if ok && addr.IsValid() && (!addr.IsLoopback() || remote.IsLoopback()) {
		c.addr = addr
	}
	switch {
	case c.secure:
	case len(forwarded) > 0:
		c.secure = strings.EqualFold(forwarded[at].proto, "https")
	default:
		said := listOf(r.Header.Values("X-Forwarded-Proto"))
		c.secure = len(said) > 0 && !slices.ContainsFunc(said, func(s string) bool { return !strings.EqualFold(s, "https") })
	}
	return c
}

// lastBeforeUs is the hop that the given lists name, the first of them that names one;
// the address is invalid if none does. It is false if they do not agree, or cannot be
// read. The place is that in the first list.
func (p proxies) lastBeforeUs(lists [][]string) (first int, addr netip.Addr, ok bool) {
	var fallback netip.Addr
	for i, hops := range lists {
		at, hop, read := p.lastUntrusted(hops)
		if !read {
			return 0, netip.Addr{}, false
		}
		if i == 0 {
			first = at
		}
		switch {
		case !hop.IsValid():
		case p.trusts(hop):
			if !fallback.IsValid() {
				fallback = hop
			}
		case addr.IsValid() && addr != hop:
			return first, netip.Addr{}, false
		default:
			addr = hop
		}
	}
	if !addr.IsValid() {
		addr = fallback
	}
	return first, addr, true
}

// lastUntrusted is the right-most hop that is no trusted proxy, or the left-most if all
// are, which is somebody within. It is false if a hop up to there is no address.
func (p proxies) lastUntrusted(hops []string) (at int, addr netip.Addr, ok bool) {
	for at = len(hops) - 1; at >= 0; at-- {
		if addr, ok = parseHop(hops[at]); !ok {
			return at, netip.Addr{}, false
		}
		if !p.trusts(addr) {
			return at, addr, true
		}
	}
	return 0, addr, true
}

func (p proxies) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p, func(one netip.Prefix) bool { return one.Contains(addr) })
}

// parseHop reads an address as proxies write it, with or without brackets and a port.
func parseHop(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		inner, bracketed := strings.CutPrefix(text, "[")
		if inner, closed := strings.CutSuffix(inner, "]"); bracketed && closed {
			addr, err = netip.ParseAddr(inner)
			if err == nil && addr.Is4() {
				return netip.Addr{}, false
			}
		} else {
			var with netip.AddrPort
			with, err = netip.ParseAddrPort(text)
			addr = with.Addr()
		}
	}
	addr = addr.Unmap().WithZone("")
	if err != nil || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Addr{}, false
	}
	return addr, true
}

// listOf joins the lines of a header and splits them at commas.
func listOf(lines []string) []string {
	if len(lines) == 0 {
		return nil
	}
	parts := strings.Split(strings.Join(lines, ","), ",")
	for i, part := range parts {
		parts[i] = strings.Trim(part, " \t")
	}
	return parts
}

// element is one hop in the header Forwarded.
type element struct{ hop, proto string }

// parseForwarded reads the header Forwarded (RFC 7239). One fault spoils it all: a quote
// that is left open by the peer swallows what a proxy has added.
func parseForwarded(lines []string) ([]element, bool) {
	if len(lines) == 0 {
		return nil, true
	}
	var all []element
	rest, more := strings.Join(lines, ","), true
	for more {
		var one element
		var ok bool
		if one, rest, more, ok = parseElement(rest); !ok {
			return nil, false
		}
		all = append(all, one)
	}
	return all, true
}

// parseElement reads up to the next comma.
func parseElement(text string) (one element, rest string, more, ok bool) {
	seen := map[string]bool{}
	for {
		name, after, found := strings.Cut(strings.TrimLeft(text, " \t"), "=")
		name = strings.ToLower(name)
		if !found || !isToken(name) || seen[name] {
			return one, "", false, false
		}
		seen[name] = true
		value, after, valid := parseValue(after)
		if !valid {
			return one, "", false, false
		}
		switch name {
		case "for":
			one.hop = value
		case "proto":
			one.proto = value
		}
		after = strings.TrimLeft(after, " \t")
		switch {
		case after == "":
			return one, "", false, true
		case after[0] == ',':
			return one, after[1:], true, true
		case after[0] == ';':
			text = after[1:]
		default:
			return one, "", false, false
		}
	}
}

// parseValue reads a token or a quoted string.
func parseValue(text string) (value, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ",; \t")
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:], isToken(text[:end])
	}
	var out strings.Builder
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return out.String(), text[i+1:], true
		case '\\':
			if i++; i == len(text) {
				return "", "", false
			}
		}
		out.WriteByte(text[i])
	}
	return "", "", false
}

// isToken reports whether a text is a token of HTTP. Colons are let through: proxies
// write ports without the quotes that they need.
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/;<=>?@[\]{}`, c)
	})
}

// readProxies reads the setting.
func readProxies(list []string) (proxies, error) {
	var out proxies
	for _, text := range list {
		one, err := netip.ParsePrefix(text)
		if addr, single := netip.ParseAddr(text); single == nil {
			one, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		switch {
		case err != nil || one.Addr().Is4In6() || strings.Contains(text, "%"):
			return nil, errors.New("is no address or network such as 10.0.0.0/8 or fd00::1")
		case one.Bits() == 0:
			return nil, errors.New("must not be everybody")
		}
		out = append(out, one.Masked())
	}
	return out, nil
}
