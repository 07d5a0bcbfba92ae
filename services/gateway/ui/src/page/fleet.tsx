import type { Shown } from "../model/fleet.ts";
import { choices, everything, readFilter, select, writeFilter, type Filter } from "../model/filter.ts";
import { agentHref, replaceQuery, useApp, type Route } from "../hooks.ts";
import { Ago, Select, StatusTag, Table } from "../parts.tsx";
import { Cells } from "./cells.tsx";
import { Strip } from "./strip.tsx";

const shown: readonly Shown[] = ["working", "online", "offline", "uncertain"];
const listed = 50;

export function FleetPage({ route }: { route: Route }) {
  const app = useApp();
  const { fleet } = app;
  const filter = readFilter(route.query);
  const set = (change: Partial<Filter>) => replaceQuery("fleet", writeFilter({ ...filter, ...change }));
  const ids = select(fleet, filter);
  const counts = fleet.counts();
  const known = fleet.known();
  const options = choices(fleet);
  const filtered = writeFilter(filter) !== "";
  const any: [string, string] = ["", "any"];
  return (
    <>
      <h1>Fleet</h1>
      <div class="counts" role="group" aria-label="Agents by status">
        {shown.map((s) => (
          <button key={s} type="button" class={`count ${s}`} aria-pressed={filter.status === s} onClick={() => set({ status: filter.status === s ? "" : s })}>
            <span class={`cell ${s}`} aria-hidden="true" />
            <b id={`count-${s}`}>{counts[s]}</b> <span>{s}</span>
          </button>
        ))}
        <span class="total">
          <b>{fleet.agents.size}</b> agents
        </span>
      </div>
      {fleet.doubt !== null && app.everLive && (
        <p class="known">
          Last known: {known.working} working, {known.online} online, {known.offline} offline.
        </p>
      )}
      <Strip />
      <form class="filters" role="search" aria-label="Filter agents" onSubmit={(e) => e.preventDefault()}>
        <label>
          Agent id
          <input type="search" name="text" value={filter.text} autocomplete="off" spellcheck={false} onInput={(e) => set({ text: e.currentTarget.value.trim() })} />
        </label>
        <Select label="Status" value={filter.status} options={[any, ...shown.map((s): [string, string] => [s, s])]} onChange={(v) => set({ status: v as Shown })} />
        <Select label="Role" value={filter.role} options={[any, ...withChosen(options.roles, filter.role)]} onChange={(role) => set({ role })} />
        <Select label="Gateway" value={filter.gateway} options={[any, ...withChosen(options.gateways, filter.gateway)]} onChange={(gateway) => set({ gateway })} />
        <Select label="Version" value={filter.version} options={[any, ...withChosen(options.versions, filter.version)]} onChange={(version) => set({ version })} />
        <button type="button" disabled={!filtered} onClick={() => set(everything)}>
          Show all
        </button>
      </form>
      <p class="matches" role="status">
        {filtered ? `${ids.length} of ${fleet.agents.size} agents match` : `${ids.length} agents`}
      </p>
      <Cells ids={ids} />
      <h2>{ids.length > listed ? `The first ${listed}` : "By name"}</h2>
      <Table label="Agents" head={["Agent", "Status", "Reason", "Since", "Connections", "Leases"]}>
        {ids.slice(0, listed).map((id) => {
          const row = fleet.agents.get(id);
          if (!row) return null;
          const status = fleet.shown(row);
          return (
            <tr key={id} data-agent={id} data-status={status}>
              <th scope="row">
                <a href={agentHref(id)}>{id}</a>
              </th>
              <td>
                <StatusTag status={status} />
                {status === "uncertain" && <small> last known {row.status}</small>}
              </td>
              <td>{row.reason ?? "–"}</td>
              <td>
                <Ago time={row.since} />
              </td>
              <td>{row.connections.length}</td>
              <td>{row.connections.reduce((n, c) => n + c.leases.length, 0)}</td>
            </tr>
          );
        })}
      </Table>
    </>
  );
}

// A filter that names what is not there any more still shows what it names.
function withChosen(values: string[], chosen: string): [string, string][] {
  const all = chosen === "" || values.includes(chosen) ? values : [...values, chosen];
  return all.map((v) => [v, v.length > 20 ? v.slice(0, 19) + "…" : v]);
}
