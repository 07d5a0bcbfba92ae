import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { agentHref, replaceQuery, useApp, type Route } from "../hooks.ts";
import { entered, isOver, readMinutes, states } from "../model/leases.ts";
import { span } from "../model/time.ts";
import type { LeaseRow } from "../model/types.ts";
import { Ago, Facts, Json, Select, Short, Table } from "../parts.tsx";

const step = 100;

export function LeasesPage({ route }: { route: Route }) {
  const app = useApp();
  const [most, setMost] = useState(step);
  const [open, setOpen] = useState("");
  useEffect(() => {
    void app.leaseListing.open();
    return () => app.leaseListing.close();
  }, []);
  const state = route.query.get("state") ?? "";
  const agent = route.query.get("agent") ?? "";
  const set = (s: string, a: string) => {
    const query = new URLSearchParams();
    if (s !== "") query.set("state", s);
    if (a !== "") query.set("agent", a);
    replaceQuery("leases", query.toString());
  };
  const rows = app.leases.sorted(state, agent);
  const listing = app.leaseListing;
  const counts = app.leases.counts();
  const cut = [...app.leases.cut.keys()].filter((s) => state === "" || state === s);
  const chosen = app.leases.rows.get(open);
  const cannot = app.cannotDecide();
  return (
    <>
      <h1>Leases</h1>
      {listing.error !== "" && <p class="problem">The leases are not available: {listing.error}</p>}
      {app.fleet.doubt !== null && <p class="problem">These are the leases as last known: {app.fleet.doubt}.</p>}
      <div class="counts" role="group" aria-label="Leases by state">
        {states.map((s) => (
          <button key={s} type="button" class={`count lease-${s.toLowerCase()}`} aria-pressed={state === s} onClick={() => set(state === s ? "" : s, agent)}>
            <b>
              {counts.get(s) ?? 0}
              {app.leases.cut.has(s) && "+"}
            </b> <span>{s}</span>
          </button>
        ))}
      </div>
      {cannot !== "" && (
        <p class="note" id="cannot-decide">
          {cannot}
        </p>
      )}
      <form class="filters" role="search" aria-label="Filter leases" onSubmit={(e) => e.preventDefault()}>
        <label>
          Agent id, in full
          <input type="search" value={agent} autocomplete="off" spellcheck={false} onInput={(e) => set(state, e.currentTarget.value.trim())} />
        </label>
        <Select label="State" value={state} options={[["", "any"], ...states.map((s): [string, string] => [s, s])]} onChange={(s) => set(s, agent)} />
      </form>
      <p class="matches" role="status">
        {listing.loaded ? `${rows.length} leases; those that are over newest first, all others oldest first` : "Loading…"}
      </p>
      {listing.progress !== "" && <p class="note">Still listing: {listing.progress}</p>}
      {cut.length > 0 && (
        <p class="note" id="leases-cut">
          Of {cut.join(", ")} there are more than are listed here; of all other states these are all.
        </p>
      )}
      <Table label="Leases" head={["State", "For", "Resource", "Agent", "Ends", "Fence", "Decided", "Reason", "Lease", "Details"]}>
        {rows.slice(0, most).map((l) => (
          <tr key={l.lease_id} data-lease={l.lease_id} data-state={l.state}>
            <td>
              <span class={`tag lease-${l.state.toLowerCase()}`}>{l.state}</span>
            </td>
            <td>
              <Ago time={entered(l)} />
            </td>
            <th scope="row">{l.resource}</th>
            <td>
              <a href={agentHref(l.agent_id)}>{l.agent_id}</a>
            </td>
            <td>{isOver(l.state) ? "–" : <Until time={l.state === "CLAIMED" ? l.claim_expires_at : l.expires_at} />}</td>
            <td>{l.fence ?? "–"}</td>
            <td>
              {l.verdict ? (
                <>
                  {l.verdict.decision} by <Short id={l.verdict.by} />
                </>
              ) : (
                "–"
              )}
            </td>
            <td>{l.reason ?? l.verdict?.reason ?? "–"}</td>
            <td>
              <Short id={l.lease_id} />
            </td>
            <td>
              <button
                type="button"
                onClick={() => setOpen(l.lease_id)}
                aria-label={`${l.state === "PENDING" && cannot === "" ? "Decide" : "Look at"} the lease of ${l.agent_id} on ${l.resource}`}
              >
                {l.state === "PENDING" && cannot === "" ? "Decide" : "Look"}
              </button>
            </td>
          </tr>
        ))}
      </Table>
      {rows.length > most && (
        <button type="button" onClick={() => setMost(most + step)}>
          Show {Math.min(step, rows.length - most)} more
        </button>
      )}
      {chosen && <Sheet lease={chosen} close={() => setOpen("")} />}
    </>
  );
}

function Until({ time }: { time: string | undefined }) {
  if (!time) return <>–</>;
  const left = Date.parse(time) - Date.now();
  return (
    <time dateTime={time} title={time}>
      {left > 0 ? `in ${span(left)}` : "due"}
    </time>
  );
}

/** Deadline is a time to come, in full and as how far off it is. */
function Deadline({ time }: { time: string }) {
  return (
    <>
      {time} (<Until time={time} />)
    </>
  );
}

/** facts are what a lease's row holds; what it lacks has no place here. */
function facts(lease: LeaseRow): [string, ComponentChildren][] {
  const { verdict, reason } = lease;
  const all: [string, ComponentChildren][] = [
    ["State", lease.state],
    ["Agent", lease.agent_id],
    ["Verdict", verdict && `${verdict.decision} by ${verdict.by}`],
    ["Reason of the verdict", verdict?.reason],
    ["Reason", reason === verdict?.reason ? undefined : reason],
    ["Expires", lease.expires_at && <Deadline time={lease.expires_at} />],
    ["Claim expires", lease.claim_expires_at && <Deadline time={lease.claim_expires_at} />],
    ["Fence", lease.fence],
    ["Requested", lease.requested_at],
    ["Decided", lease.resolved_at],
    ["Claimed", lease.claimed_at],
    ["Ended", lease.ended_at],
    ["Message", lease.message_id],
    ["Connection", lease.connection_id],
    ["Lease", lease.lease_id],
  ];
  return all.filter(([, value]) => value !== undefined && value !== "");
}

/** Minutes asks for a time that may be left out. A field of numbers would give nothing for what is none, as if it were left out. */
function Minutes(o: { name: string; label: string; value: string; bad: boolean; onInput: (text: string) => void }) {
  return (
    <label>
      {o.label}
      <input
        type="text"
        inputMode="decimal"
        name={o.name}
        value={o.value}
        maxLength={12}
        autocomplete="off"
        aria-invalid={o.bad}
        aria-describedby={o.bad ? "not-done" : undefined}
        onInput={(e) => o.onInput(e.currentTarget.value)}
      />
    </label>
  );
}

/** Sheet shows a lease, and takes a verdict while it waits for one. */
function Sheet({ lease, close }: { lease: LeaseRow; close: () => void }) {
  const app = useApp();
  const dialog = useRef<HTMLDialogElement>(null);
  const [reason, setReason] = useState("");
  const [minutes, setMinutes] = useState({ grant: "", hold: "" });
  const [error, setError] = useState("");
  const [bad, setBad] = useState("");
  const [busy, setBusy] = useState(false);
  const cannot = app.cannotDecide();
  const decides = lease.state === "PENDING" && cannot === "";
  // Before anybody sees it: a sheet that is there and not open yet cannot be closed.
  useLayoutEffect(() => dialog.current?.showModal(), []);
  const decide = async (verdict: string) => {
    const time = verdict === "grant" || verdict === "hold" ? readMinutes(minutes[verdict]) : {};
    setError("error" in time ? `${verdict} for ${time.error}` : "");
    setBad("error" in time ? verdict : "");
    if ("error" in time) {
      dialog.current?.querySelector<HTMLInputElement>(`input[name=${verdict}]`)?.focus();
      return;
    }
    setBusy(true);
    try {
      await app.resolve(lease, verdict, {
        ...(reason.trim() === "" ? {} : { reason: reason.trim() }),
        ...(time.ms === undefined ? {} : verdict === "grant" ? { timeout_ms: time.ms } : { hold_ms: time.ms }),
      });
      close();
    } catch (problem) {
      setError((problem as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="sheet-title">
      <h2 id="sheet-title">{lease.resource}</h2>
      <Facts facts={facts(lease)} />
      {lease.metadata !== undefined && <Json value={lease.metadata} />}
      {lease.state === "PENDING" && cannot !== "" && <p class="note">It waits for a verdict. {cannot}</p>}
      {decides && (
        <>
          <label>
            Reason
            <input type="text" name="reason" value={reason} maxLength={200} autocomplete="off" onInput={(e) => setReason(e.currentTarget.value)} />
          </label>
          <div class="times">
            <Minutes
              name="grant"
              label="Grant for, in minutes; else as was asked for, or by the policy"
              value={minutes.grant}
              bad={bad === "grant"}
              onInput={(grant) => setMinutes({ ...minutes, grant })}
            />
            <Minutes
              name="hold"
              label="Hold for, in minutes; else 15"
              value={minutes.hold}
              bad={bad === "hold"}
              onInput={(hold) => setMinutes({ ...minutes, hold })}
            />
          </div>
        </>
      )}
      {lease.state === "HOLD" && <p>It is on hold. Its agent may ask again, and then a verdict is wanted anew.</p>}
      {error !== "" && (
        <p class="problem" role="alert" id="not-done">
          Not done: {error}
        </p>
      )}
      <div class="actions">
        {decides && (
          <>
            <button type="button" disabled={busy} onClick={() => void decide("grant")}>
              Grant
            </button>
            <button type="button" disabled={busy} onClick={() => void decide("deny")}>
              Deny
            </button>
            <button type="button" disabled={busy} onClick={() => void decide("hold")}>
              Hold
            </button>
          </>
        )}
        <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </div>
    </dialog>
  );
}
