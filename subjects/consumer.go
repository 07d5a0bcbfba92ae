package subjects

// The durable push consumers of the services, and where they deliver: on
// tenant.system.deliver.<service>, which no stream captures. Who may subscribe
// there takes the service's work, so the names are what permissions cut along.
const (
	DeliverPresence = "tenant." + SystemTenant + ".deliver.presence"
	DeliverLease    = "tenant." + SystemTenant + ".deliver.lease"

	// ConsumerRegistrar sees every opened connection, ConsumerInstances those of
	// peers without an agent. Both are presence's, on EVENTS, beside one per agent.
	ConsumerRegistrar = "presence-registrar"
	ConsumerInstances = "presence-instances"
	// ConsumerCommands is the lease service's on COMMANDS, ConsumerCloses its own
	// on EVENTS.
	ConsumerCommands = "lease-commands"
	ConsumerCloses   = "lease-closes"
)

// SettingsAccount is the key of SETTINGS under which the signed description of
// the account lies: whose tokens count, and which of them do not any more.
// Gateways follow it.
const SettingsAccount = SystemTenant + ".account"
