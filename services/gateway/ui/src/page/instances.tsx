import { useState } from "preact/hooks";
import { agentHref, replaceQuery, useApp, type Route } from "../hooks.ts";
import { Ago, Select, Short, Table } from "../parts.tsx";

const step = 100;
const order: Record<string, number> = { gateway: 0, node: 1, client: 2 };

export function InstancesPage({ route }: { route: Route }) {
  const app = useApp();
  const [most, setMost] = useState(step);
  const role = route.query.get("role") ?? "";
  const text = route.query.get("text") ?? "";
  const set = (r: string, t: string) => {
    const query = new URLSearchParams();
    if (r !== "") query.set("role", r);
    if (t !== "") query.set("text", t);
    replaceQuery("instances", query.toString());
  };
  const rows = [...app.fleet.instances.values()]
    .filter((i) => (role === "" || i.role === role) && (text === "" || [i.instance_id, i.agent_id, i.version, i.host, i.ip].some((v) => v?.includes(text))))
    .sort((a, b) => (order[a.role] ?? 9) - (order[b.role] ?? 9) || (a.instance_id < b.instance_id ? -1 : 1));
  return (
    <>
      <h1>Instances</h1>
      {app.fleet.doubt !== null ? (
        <p class="problem">These are the instances as last known: {app.fleet.doubt}.</p>
      ) : (
        !app.fleet.inventoried && <p class="note">The instances are being listed; these are as last known.</p>
      )}
      <form class="filters" role="search" aria-label="Filter instances" onSubmit={(e) => e.preventDefault()}>
        <label>
          Id, agent, version or address
          <input type="search" value={text} autocomplete="off" spellcheck={false} onInput={(e) => set(role, e.currentTarget.value.trim())} />
        </label>
        <Select label="Role" value={role} options={[["", "any"], ["gateway", "gateway"], ["node", "node"], ["client", "client"]]} onChange={(r) => set(r, text)} />
      </form>
      <p class="matches" role="status">
        {rows.length} of {app.fleet.instances.size} instances
      </p>
      <Table label="Instances" head={["Instance", "Role", "State", "Version", "Mode", "Agent", "Observed address", "Name at connect", "Reported", "Last seen", "Input before beacon"]}>
        {rows.slice(0, most).map((i) => (
          <tr key={i.instance_id} data-instance={i.instance_id} data-state={app.fleet.shownInstance(i)}>
            <th scope="row">
              <Short id={i.instance_id} />
            </th>
            <td>{i.role}</td>
            <td>{app.fleet.shownInstance(i)}</td>
            <td>{i.version ?? "–"}</td>
            <td>{i.mode ?? "–"}</td>
            <td>{i.agent_id ? <a href={agentHref(i.agent_id)}>{i.agent_id}</a> : "–"}</td>
            <td>{i.ip ?? "–"}</td>
            <td>{i.host ?? "–"}</td>
            <td>{[i.reported?.host, i.reported?.ip].filter(Boolean).join(", ") || "–"}</td>
            <td>
              <Ago time={i.last_seen_at} />
            </td>
            <td>{i.last_input_seconds === undefined ? "–" : `${i.last_input_seconds} s`}</td>
          </tr>
        ))}
      </Table>
      {rows.length > most && (
        <button type="button" onClick={() => setMost(most + step)}>
          Show {Math.min(step, rows.length - most)} more
        </button>
      )}
    </>
  );
}
