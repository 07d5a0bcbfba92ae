// Small parts that several pages use.
import type { ComponentChildren } from "preact";
import type { Shown } from "./model/fleet.ts";
import { age } from "./model/time.ts";

export function StatusTag({ status }: { status: Shown }) {
  return (
    <span class={`tag ${status}`}>
      <span class={`cell ${status}`} aria-hidden="true" />
      {status}
    </span>
  );
}

/** Ago is a time as an age, with the time itself behind it. */
export function Ago({ time }: { time: string | undefined }) {
  if (!time) return <>–</>;
  return (
    <time dateTime={time} title={time}>
      {age(time, Date.now())}
    </time>
  );
}

/** Short is the beginning of an id whose whole is in its title. */
export function Short({ id }: { id: string }) {
  return (
    <code title={id} class="id">
      {id.length > 16 ? id.slice(0, 15) + "…" : id}
    </code>
  );
}

export function Facts({ facts }: { facts: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value === undefined || value === "" ? "–" : value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Json({ value }: { value: unknown }) {
  return (
    <pre class="json" tabIndex={0}>
      {JSON.stringify(value, null, 2)}
    </pre>
  );
}

/** Table is a table that scrolls sideways where it does not fit, also by keyboard. */
export function Table({ label, head, children }: { label: string; head: string[]; children: ComponentChildren }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table>
        <thead>
          <tr>
            {head.map((name) => (
              <th key={name} scope="col">
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

export function Select({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: string;
  options: [string, string][];
  onChange: (value: string) => void;
}) {
  return (
    <label>
      {label}
      <select value={value} onChange={(e) => onChange(e.currentTarget.value)}>
        {options.map(([v, text]) => (
          <option key={v} value={v}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}
