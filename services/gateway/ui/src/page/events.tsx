import { useEffect, useState } from "preact/hooks";
import { useApp } from "../hooks.ts";
import { describe } from "../model/describe.ts";
import { readTypes, type Line } from "../model/tail.ts";
import { Json } from "../parts.tsx";

const listed = 200;

export function EventsPage() {
  const app = useApp();
  const { tail, tailLink } = app;
  const [text, setText] = useState(app.tailTypes.join(" "));
  const [error, setError] = useState("");
  useEffect(() => {
    app.openTail();
    return () => app.leaveTail();
  }, []);
  const lines = tail.lines.slice(-listed).reverse();
  const state = app.tailPaused ? "paused" : tailLink.phase === "open" ? (tailLink.hushed ? "not live: the gateway has not answered for a while" : "live") : tailLink.phase === "waiting" ? `not live: ${tailLink.why}; trying again` : tailLink.phase === "refused" ? `not available: ${tailLink.why}` : "connecting";
  return (
    <>
      <h1>Events</h1>
      <form
        class="filters"
        aria-label="What to listen to"
        onSubmit={(e) => {
          e.preventDefault();
          const read = readTypes(text);
          if ("error" in read) setError(read.error);
          else {
            setError("");
            app.filterTail(read.types);
          }
        }}
      >
        <label class="wide">
          Types, such as presence.changed or lease.*
          <input type="text" name="types" value={text} autocomplete="off" spellcheck={false} onInput={(e) => setText(e.currentTarget.value)} />
        </label>
        <button type="submit">Apply</button>
        <button type="button" id="pause" aria-pressed={app.tailPaused} onClick={() => app.pauseTail(!app.tailPaused)}>
          {app.tailPaused ? "Resume" : "Pause"}
        </button>
        <button type="button" onClick={() => app.skipTail()}>
          Clear and go on from now
        </button>
      </form>
      {(error || app.tailError) !== "" && (
        <p class="problem" role="alert">
          {error || app.tailError}
        </p>
      )}
      <p class="matches" id="tail-state" data-state={state}>
        <span role="status">{state}</span> · {tail.received} received{tail.lines.length > listed ? `, the newest ${listed} below` : ""} · times in UTC
        {app.tailPaused ? "; what happens meanwhile comes when it is resumed" : ""}
      </p>
      {lines.length === 0 ? (
        <p>Nothing yet.</p>
      ) : (
        <ol class="tail" id="tail">
          {lines.map((line) => (
            <Entry key={line.at} line={line} />
          ))}
        </ol>
      )}
    </>
  );
}

function Entry({ line }: { line: Line }) {
  const [open, setOpen] = useState(false);
  if ("gap" in line) return <li class="gap">{line.gap}</li>;
  const { event } = line;
  return (
    <li data-event={event.event_id} data-type={event.type}>
      <details onToggle={(e) => setOpen(e.currentTarget.open)}>
        <summary>
          <time dateTime={event.occurred_at}>{event.occurred_at.slice(11, 23).replace("Z", "")}</time> <b>{event.type}</b>{" "}
          <span>
            {event.scope.kind} {event.scope.id && <span title={event.scope.id}>{event.scope.id.length > 24 ? event.scope.id.slice(0, 15) + "…" : event.scope.id}</span>}
          </span>{" "}
          <span class="gist">{describe(event)}</span>
        </summary>
        {open && <Json value={event} />}
      </details>
    </li>
  );
}
