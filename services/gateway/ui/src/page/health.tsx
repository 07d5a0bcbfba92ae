import { useApp } from "../hooks.ts";
import { span } from "../model/time.ts";
import { Ago, Facts, Json, Short, Table } from "../parts.tsx";

export function HealthPage() {
  const app = useApp();
  const { health, fleet } = app;
  const s = health.status;
  const gateways = [...fleet.instances.values()].filter((i) => i.role === "gateway").sort((a, b) => (a.instance_id < b.instance_id ? -1 : 1));
  const here = app.welcome?.gateway;
  const away = app.link.phase !== "open" || app.link.hushed;
  return (
    <>
      <h1>Health</h1>
      {fleet.doubt !== null && (
        <p class="problem" id="doubt">
          {away && app.healthAt > 0 ? `This is what was known ${span(Date.now() - app.healthAt)} ago: ` : "No agent's status is certain: "}
          {fleet.doubt}.
        </p>
      )}
      <h2>Gateways</h2>
      <Table label="Gateways" head={["Gateway", "Version", "Mode", "Last seen", "Agents", "Connections", "Note"]}>
        {gateways.map((g) => (
          <tr key={g.instance_id}>
            <th scope="row">
              <Short id={g.instance_id} />
            </th>
            <td>{g.version ?? "–"}</td>
            <td>{g.mode ?? "–"}</td>
            <td>
              <Ago time={g.last_seen_at} />
            </td>
            <td>{[...fleet.agents.values()].filter((a) => a.connections.some((c) => c.gateway_id === g.instance_id && fleet.answers(c))).length}</td>
            <td>{s?.gateways?.find((o: any) => o.instance_id === g.instance_id)?.connections ?? "–"}</td>
            <td>{g.instance_id === here?.instance_id ? "this page is connected to it" : ""}</td>
          </tr>
        ))}
      </Table>
      <h2>This gateway</h2>
      {health.statusError !== "" && <p class="note">Its status is {health.statusError}.</p>}
      <Facts
        facts={[
          ["Ready", health.ready === null ? "not known" : health.ready.status === 200 ? "yes" : `no (${health.ready.status})`],
          ["Version", s?.version ?? here?.version],
          ["Up for", typeof s?.uptime_ms === "number" ? span(s.uptime_ms) : undefined],
          ["Connections to it", s?.connections !== undefined ? text(s.connections) : undefined],
          ["On all gateways", s?.tenant?.connections !== undefined ? text(s.tenant.connections) : undefined],
          ["Incarnation", here && <Short id={here.incarnation} />],
        ]}
      />
      {health.ready !== null && health.ready.status !== 200 && (
        <pre class="json" tabIndex={0}>
          {health.ready.text}
        </pre>
      )}
      <h2>NATS</h2>
      <Facts
        facts={[
          ["Connected", s?.nats?.connected === undefined ? (health.ready?.status === 200 ? "yes" : undefined) : s.nats.connected ? "yes" : "no"],
          ["Server", s?.nats?.server_version],
          ["Replicas", s?.nats?.replicas !== undefined ? text(s.nats.replicas) : undefined],
          ["Written to disk", s?.nats?.sync !== undefined ? text(s.nats.sync) : undefined],
          ["Less than asked for", Array.isArray(s?.nats?.faults) && s.nats.faults.length > 0 ? s.nats.faults.map(text).join("; ") : undefined],
        ]}
      />
      <h2>Presence</h2>
      <Facts
        facts={[
          ["Consumers", s?.presence?.mode !== undefined ? text(s.presence.mode) + (s.presence.consumers !== undefined ? `, ${text(s.presence.consumers)}` : "") : undefined],
          ["Behind", typeof s?.presence?.lag_ms === "number" ? `${s.presence.lag_ms} ms` : undefined],
          ["Brake", s?.presence?.brake === undefined ? undefined : s.presence.brake ? `engaged: ${text(s.presence.brake_reason ?? "presence holds expiry")}` : "released"],
        ]}
      />
      {Array.isArray(s?.presence?.processes) && s.presence.processes.length > 0 && (
        <Table label="Presence processes" head={["Process", "Mode", "Behind", "Seen"]}>
          {s.presence.processes.map((p: any) => (
            <tr key={p.process_id}>
              <th scope="row">
                <Short id={p.process_id} />
              </th>
              <td>{p.mode}</td>
              <td>{p.lag_ms} ms</td>
              <td>
                <Ago time={p.seen_at} />
              </td>
            </tr>
          ))}
        </Table>
      )}
      {s !== null && (
        <details>
          <summary>All that the gateway says</summary>
          <Json value={s} />
        </details>
      )}
      <h2>This page</h2>
      <Facts
        facts={[
          ["Device", app.welcome && <Short id={app.welcome.device_id} />],
          ["Connection", app.welcome && <Short id={app.welcome.client_id} />],
          ["Rows held", `${fleet.agents.size} agents, ${fleet.instances.size} instances, ${app.leases.rows.size} leases`],
        ]}
      />
    </>
  );
}

// A value that may be one word or several.
function text(value: unknown): string {
  if (value === true) return "yes";
  if (value === false) return "no";
  if (value === null || typeof value !== "object") return String(value);
  return Object.entries(value)
    .map(([k, v]) => `${k} ${typeof v === "object" ? JSON.stringify(v) : String(v)}`)
    .join(", ");
}
