// Package gateway is the edge: peers connect to it over WebSocket, prove who
// they are, and see each other's presence.
//
// # What goes in and out
//
//	reads   PRESENCE, GATEWAYS                         into an in-memory view
//	        (presence's own rows there too: the brake, its processes)
//	        SETTINGS T.presence                        caps on connections
//	        EVENTS   tenant.T.>                        to sockets and streams, per
//	                                                   tenant that has readers here
//	        EDGE     tenant.*.edge.N.*                 replies, and what is for one peer
//	writes  EVENTS   tenant.T.agent.A.connection.*     peers with an agent
//	                 tenant.T.instance.I.connection.*  peers without, and the gateway itself
//	                 tenant.T.event.<type>             what peers publish
//	                 tenant.T.audit.event.rejected     what producers on NATS got wrong
//	        COMMANDS tenant.T.lease.L.<command>        lease requests
//	        GATEWAYS system.G                          its own row, and no other
//
// # A socket's life
//
//	upgrade ─► token ─► connect.init ─► connect.proof ─► place ─► opened stored ─► answered
//	              │           └────── internal/machine ──────┘      │                  │
//	              ▼                          ▼                      ▼                  ▼
//	            4001                  4001 … 4008            4009, 1013          requests, events
//	                                                                                   │
//	                                       place given back ◄─ closed stored ◄─ closed ┘
//
// Peers speak rollcall.v1 or tyrum-v1. What the two differ in is a [dialect]; their
// handshakes differ in the machine's rules.
//
// # When something fails
//
//	JetStream away      openings are refused with 1013, requests that store
//	                    answer unavailable, closings are retried until the
//	                    process ends; listings of presence go on from memory
//	row lapses          presence closes this gateway's connections, its own too;
//	                    once the gateway sees that, it announces them again and
//	                    tells their peers to reconnect
//	opening stored      a row names a connection that is not there; it is
//	after its close     closed again once that has been seen for a while
//	second process      the one that started later takes the row; the other
//	with the same key   stops with ErrSuperseded
//	slow peer           its queue fills, it is closed with 1008; nobody waits. One
//	                    that is given what it missed is waited for
//	presence away       rows stay as they are; a beacon in tyrum-v1, whose event
//	                    is to come first, is answered after two seconds
//	SIGTERM             readiness goes red, sockets are closed over the drain
//	                    time, closings stored, the row removed
package gateway
