package access

import "slices"

// Permissions are what the server holds the users of a role to. An empty list
// of what is allowed means that nothing is. The server fills {{name()}},
// {{subject()}} and {{tag(tenant)}} from the user's own claims.
type Permissions struct {
	Publish, DenyPublish []string
	Subscribe            []string
	// Connections are the ways to connect; none means that the role cannot.
	Connections []string
}

// Ways to connect, as NATS names them.
const (
	connectTCP       = "STANDARD"
	connectWebSocket = "WEBSOCKET"
)

// ownInbox covers every inbox of a user and nobody else's.
const ownInbox = "_INBOX_{{subject()}}.>"

// Of returns the permissions of a role.
func Of(role Role) Permissions {
	switch role {
	case Gateway, Presence, Lease, Replay:
		return ofService(role)
	case Producer:
		return Permissions{
			Publish: []string{"tenant.{{tag(tenant)}}.event.>"}, Subscribe: []string{ownInbox},
			Connections: []string{connectTCP, connectWebSocket},
		}
	case Tail:
		return Permissions{
			Subscribe: []string{"tenant.{{tag(tenant)}}.>", ownInbox}, Connections: []string{connectTCP, connectWebSocket},
		}
	case Admin:
		return Permissions{
			Publish: []string{">"}, Subscribe: []string{">"}, Connections: []string{connectTCP, connectWebSocket},
		}
	case Agent, Operator:
		return Permissions{}
	default:
		return Permissions{}
	}
}

const api = "$JS.API."

// ofService derives a service's permissions from its duty.
func ofService(role Role) Permissions {
	d := DutyOf(role)
	p := Permissions{
		Publish: append(slices.Clone(d.Stores), api+"INFO"), Subscribe: []string{ownInbox}, Connections: []string{connectTCP},
	}
	allow := func(subjects ...string) { p.Publish = append(p.Publish, subjects...) }
	for _, stream := range d.Creates {
		allow(api+"STREAM.CREATE."+stream, api+"STREAM.INFO."+stream)
	}
	for _, stream := range d.Raises {
		allow(api + "STREAM.UPDATE." + stream)
	}
	for _, stream := range d.Purges {
		allow(api + "STREAM.PURGE." + stream)
	}
	for _, stream := range d.Scratch {
		allow(api+"STREAM.CREATE."+stream, api+"STREAM.INFO."+stream, api+"STREAM.DELETE."+stream)
	}
	for _, stream := range d.Looks {
		allow(api + "STREAM.INFO." + stream)
	}
	for _, stream := range d.Lists {
		allow(api+"CONSUMER.NAMES."+stream, api+"CONSUMER.LIST."+stream)
	}
	for _, stream := range d.Reads {
		allow(reading(stream, d.Copies)...)
	}
	for _, consumer := range d.Works {
		allow(working(consumer)...)
	}
	if d.Listens != "" {
		p.Subscribe = append(p.Subscribe, d.Listens)
	}
	p.Publish = compact(p.Publish)
	for _, consumer := range foreign(role) {
		p.DenyPublish = append(p.DenyPublish, denied(consumer)...)
	}
	return p
}

// reading is what it takes to follow a stream and to look single messages up.
func reading(stream string, copies bool) []string {
	out := []string{
		api + "STREAM.INFO." + stream,
		api + "STREAM.MSG.GET." + stream,
		api + "CONSUMER.CREATE." + stream + ".>",
		api + "CONSUMER.INFO." + stream + ".*",
		api + "CONSUMER.DELETE." + stream + ".*",
		api + "CONSUMER.MSG.NEXT." + stream + ".*",
	}
	if copies {
		out = append(out, api+"DIRECT.GET."+stream, api+"DIRECT.GET."+stream+".>")
	}
	return out
}

// working is what it takes to make a durable push consumer, to look after it
// and to acknowledge what it delivers.
func working(c Consumer) []string {
	return []string{
		api + "STREAM.INFO." + c.Stream,
		api + "CONSUMER.CREATE." + c.Stream + "." + c.Name,
		api + "CONSUMER.CREATE." + c.Stream + "." + c.Name + ".>",
		api + "CONSUMER.INFO." + c.Stream + "." + c.Name,
		api + "CONSUMER.DELETE." + c.Stream + "." + c.Name,
		"$JS.ACK." + c.Stream + "." + c.Name + ".>",
	}
}

// denied keeps a service's hands off a durable consumer of another.
func denied(c Consumer) []string {
	return []string{
		api + "CONSUMER.CREATE." + c.Stream + "." + c.Name,
		api + "CONSUMER.CREATE." + c.Stream + "." + c.Name + ".>",
		api + "CONSUMER.DELETE." + c.Stream + "." + c.Name,
		"$JS.ACK." + c.Stream + "." + c.Name + ".>",
	}
}

// foreign are the named durable consumers of the other services.
func foreign(role Role) []Consumer {
	var out []Consumer
	for _, other := range Services() {
		if other == role {
			continue
		}
		for _, consumer := range DutyOf(other).Works {
			if consumer.Name != anyAgent {
				out = append(out, consumer)
			}
		}
	}
	return out
}

func compact(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
