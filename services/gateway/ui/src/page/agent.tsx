import { useEffect } from "preact/hooks";
import { useApp } from "../hooks.ts";
import { describe } from "../model/describe.ts";
import { moment } from "../model/time.ts";
import { Timeline } from "../model/timeline.ts";
import type { Event, InstanceRow } from "../model/types.ts";
import { Ago, Facts, Json, Short, StatusTag, Table } from "../parts.tsx";

export function AgentPage({ id }: { id: string }) {
  const app = useApp();
  const { fleet } = app;
  useEffect(() => {
    app.watch(id);
    return () => app.unwatch(id);
  }, [id]);

  const row = fleet.agents.get(id) ?? { agent_id: id, status: "offline" as const, connections: [], since: undefined, reason: undefined, evidence: undefined, last_seen_at: undefined };
  const known = fleet.agents.has(id);
  const status = fleet.shown({ ...row, connections: row.connections } as never);
  const doubt = fleet.doubtOf(row as never);
  const instances = row.connections.map((c) => fleet.instances.get(c.instance_id)).filter((i): i is InstanceRow => i !== undefined);
  const last = instances.map((i) => i.last_input_seconds).filter((n): n is number => n !== undefined);
  const timeline = app.watched === id ? app.timeline : new Timeline(); // the last agent's is no answer
  return (
    <>
      <p class="crumb">
        <a href="#/fleet">Fleet</a>
      </p>
      <h1>
        {id} <StatusTag status={status} />
      </h1>
      {doubt !== null && (
        <p class="problem">
          What it is now is not certain: {doubt}. Last known: {row.status}.
        </p>
      )}
      {!known && <p>There is no row for this agent: nothing was heard of it within the retention, and so it reads offline.</p>}
      <h2>Why</h2>
      <Facts
        facts={[
          ["Reason", row.reason],
          [
            "Evidence",
            row.evidence && (
              <>
                {row.evidence.type} <Short id={row.evidence.event_id} /> event {row.evidence.seq} of the stream, <Ago time={row.evidence.at} /> ago
              </>
            ),
          ],
          ["Since", row.since && <><Ago time={row.since} /> (<time dateTime={row.since} title={row.since}>{moment(row.since)}</time>)</>],
          ["Last seen", row.last_seen_at && <><Ago time={row.last_seen_at} /> ago</>],
          ["Last input", last.length > 0 ? `${Math.min(...last)} s before its last beacon` : undefined],
        ]}
      />
      <h2>Connections</h2>
      {row.connections.length === 0 ? (
        <p>None.</p>
      ) : (
        <Table label="Connections" head={["Connection", "Device", "Version", "Mode", "Gateway", "Connected", "Observed address", "Name at connect", "Reported host", "Reported address", "Leases"]}>
          {row.connections.map((c) => {
            const i = fleet.instances.get(c.instance_id);
            return (
              <tr key={c.connection_id}>
                <th scope="row">
                  <Short id={c.connection_id} />
                </th>
                <td>
                  <Short id={c.instance_id} />
                </td>
                <td>{i?.version ?? "–"}</td>
                <td>{i?.mode ?? "–"}</td>
                <td>
                  <Short id={c.gateway_id} />
                  {!fleet.answers(c) && <strong> does not answer</strong>}
                </td>
                <td>
                  <Ago time={c.connected_at} />
                </td>
                <td>{i?.ip ?? "–"}</td>
                <td>{i?.host ?? "–"}</td>
                <td>{i?.reported?.host ?? "–"}</td>
                <td>{i?.reported?.ip ?? "–"}</td>
                <td>
                  {c.leases.length === 0 ? "–" : c.leases.map((lease) => <a key={lease} href={`#/leases?agent=${encodeURIComponent(id)}`}><Short id={lease} /></a>)}
                </td>
              </tr>
            );
          })}
        </Table>
      )}
      {instances.some((i) => i.metadata !== undefined) && (
        <details>
          <summary>What its devices say of themselves</summary>
          {instances.map((i) => i.metadata !== undefined && <Json key={i.instance_id} value={i.metadata} />)}
        </details>
      )}
      <p>
        <a href={`#/leases?agent=${encodeURIComponent(id)}`}>All its leases</a>
      </p>
      <h2>Timeline</h2>
      {timeline.error !== "" && (
        <p class="note">
          What is stored of it is {timeline.error}.{" "}
          <button type="button" onClick={() => void app.readPast()}>
            Ask again
          </button>
        </p>
      )}
      {timeline.live.length + timeline.stored.length === 0 ? (
        timeline.error === "" && <p>{timeline.known ? "Nothing yet." : "It is being read…"}</p>
      ) : (
        <ol class="timeline" id="timeline">
          {timeline.live.map(entry)}
          {timeline.gap && <li class="gap">What happened between here and the next line, while this page was cut off, may be missing.</li>}
          {timeline.stored.map(entry)}
        </ol>
      )}
      {timeline.next !== "" && (
        <button type="button" onClick={() => void app.readPast(true)}>
          Show older
        </button>
      )}
    </>
  );
}

function entry(e: Event) {
  return (
    <li key={e.event_id}>
      <time dateTime={e.occurred_at}>{moment(e.occurred_at)}</time> <b>{e.type}</b> {describe(e)}
    </li>
  );
}
