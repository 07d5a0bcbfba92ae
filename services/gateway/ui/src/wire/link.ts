// A socket that comes back by itself: rollcall.v1 with its handshake, requests and events. What is to be asked again on
// each connection is its user's to know (onOpen).

import { delay } from "../model/backoff.ts";
import type { Event, Welcome } from "../model/types.ts";
import { device, prove } from "./key.ts";

export type Phase = "stopped" | "connecting" | "open" | "waiting" | "refused";

/** Problem is a refusal as the gateway words it. */
export class Problem extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly details: Record<string, unknown> = {},
  ) {
    super(message);
  }
}

export interface Options {
  /** onOpen says what there is to say on a fresh connection; the link counts as open once it is done. */
  onOpen: (welcome: Welcome) => Promise<void>;
  onEvent: (event: Event) => void;
  onChange: () => void;
}

const pingEvery = 5_000;
/** patience is how long a gateway that owes an answer may say nothing before nothing is certain. */
const patience = 3_000;
/** silence is how long a socket may say nothing after a ping before it is given up. */
const silence = 10_000;

/** final close codes say that coming again with the same token and key is pointless. */
const final: Record<number, string> = {
  4001: "The access token does not count, or does not count any more.",
  4005: "This page speaks another revision of the protocol than the gateway. Reload it.",
  4006: "The gateway does not accept this browser's key.",
  4007: "The gateway does not accept this browser's proof.",
  4008: "The token is bound to another device.",
};

export class Link {
  phase: Phase = "stopped";
  /** why says what ended the last connection. */
  why = "";
  closeCode = 0;
  /** nextAt is when the next attempt begins, while waiting. */
  nextAt = 0;
  /** heard is when the gateway last said anything. */
  heard = 0;
  /** hushed says that the gateway owes an answer for longer than it should. */
  hushed = false;

  readonly #o: Options;
  #socket: WebSocket | null = null;
  #waiting = new Map<string, { resolve: (result: any) => void; reject: (error: Error) => void; timer: number; asked: number }>();
  #requests = 0;
  #attempt = 0;
  #timer = 0;
  #watch = 0;
  #ticked = 0;
  #pinged = 0;

  constructor(o: Options) {
    this.#o = o;
  }

  start(): void {
    if (this.phase !== "stopped" && this.phase !== "refused") return;
    this.#attempt = 0;
    this.#ticked = Date.now();
    clearInterval(this.#watch);
    this.#watch = window.setInterval(() => this.#look(), 1000);
    globalThis.addEventListener("online", this.#hurry);
    document.addEventListener("visibilitychange", this.#hurry);
    this.#connect();
  }

  stop(): void {
    this.#drop("");
    this.#enter("stopped");
    clearInterval(this.#watch);
    clearTimeout(this.#timer);
    globalThis.removeEventListener("online", this.#hurry);
    document.removeEventListener("visibilitychange", this.#hurry);
  }

  /** again gives up the connection and makes another. */
  again(why: string): void {
    if (this.phase === "open" || this.phase === "connecting") this.#lost(why);
  }

  /** request asks the gateway something. */
  request<T>(type: string, payload: unknown, timeout = 15_000): Promise<T> {
    const socket = this.#socket;
    if (!socket || socket.readyState !== WebSocket.OPEN) return Promise.reject(new Problem("unavailable", "not connected"));
    const id = String(++this.#requests);
    return new Promise<T>((resolve, reject) => {
      const timer = window.setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Problem("timeout", `no answer to ${type} within ${timeout / 1000} s`));
      }, timeout);
      this.#waiting.set(id, { resolve, reject, timer, asked: Date.now() });
      socket.send(JSON.stringify({ request_id: id, type, payload }));
    });
  }

  async #connect(): Promise<void> {
    clearTimeout(this.#timer);
    this.#enter("connecting");
    let socket: WebSocket;
    let key;
    try {
      key = await device();
      if ((this.phase as Phase) !== "connecting") return; // stop() came while the key was loaded
      socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws", "rollcall.v1");
    } catch (error) {
      this.why = (error as Error).message;
      this.#enter("refused");
      return;
    }
    this.#socket = socket;
    socket.onmessage = (message) => this.#take(String(message.data));
    socket.onclose = (close) => this.#closed(close);
    socket.onopen = async () => {
      try {
        const init = await this.request<{ connection_id: string; challenge: string }>("connect.init", {
          protocol_rev: 2,
          role: "client",
          device: { device_id: key.id, pubkey: key.pubkey, label: "operator screen", platform: "web", mode: "ui" },
        });
        const proof = await prove(key, init.connection_id, init.challenge);
        const welcome = await this.request<Welcome>("connect.proof", { connection_id: init.connection_id, proof });
        await this.#o.onOpen(welcome);
        if (this.#socket !== socket) return;
        this.#attempt = 0;
        this.why = "";
        this.closeCode = 0;
        this.#enter("open");
      } catch (error) {
        if (this.#socket !== socket) return; // what closed it has said why
        const problem = error as Problem;
        if (problem.code === "forbidden") {
          this.#drop("");
          this.why = problem.message;
          this.#enter("refused");
        } else this.#lost(problem.message);
      }
    };
  }

  #take(text: string): void {
    this.heard = Date.now();
    if (this.hushed) {
      this.hushed = false;
      this.#o.onChange();
    }
    const frame = JSON.parse(text);
    if ("ok" in frame) {
      const waiting = this.#waiting.get(frame.request_id);
      if (!waiting) return;
      this.#waiting.delete(frame.request_id);
      clearTimeout(waiting.timer);
      if (frame.ok) waiting.resolve(frame.result);
      else waiting.reject(new Problem(frame.error.code, frame.error.message, frame.error.details));
      return;
    }
    if ("event_id" in frame) {
      this.#o.onEvent(frame as Event);
      return;
    }
    // Something is asked of this peer; it serves nothing.
    this.#socket?.send(JSON.stringify({ request_id: frame.request_id, type: frame.type, ok: false, error: { code: "unsupported_request", message: "this is a screen" } }));
  }

  #closed(close: CloseEvent): void {
    const last = final[close.code];
    this.closeCode = close.code;
    if (last !== undefined) {
      this.#drop(last);
      this.why = last;
      this.#enter("refused");
      return;
    }
    this.#lost(close.reason !== "" ? `the gateway closed the connection: ${close.reason}` : "the connection was lost");
  }

  #lost(why: string): void {
    this.#drop(why);
    this.why = why;
    const wait = delay(this.#attempt++, Math.random());
    this.nextAt = Date.now() + wait;
    this.#enter("waiting");
    this.#timer = window.setTimeout(() => this.#connect(), wait);
  }

  // The handlers go first: a dead network lets a socket take minutes to close.
  #drop(why: string): void {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = socket.onopen = null;
      // A browser complains of a socket that is closed before it was open.
      if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
      else socket.close();
    }
    for (const waiting of this.#waiting.values()) {
      clearTimeout(waiting.timer);
      waiting.reject(new Problem("unavailable", why || "not connected"));
    }
    this.#waiting.clear();
    this.hushed = false;
  }

  #enter(phase: Phase): void {
    this.phase = phase;
    this.#o.onChange();
  }

  // A machine that slept finds its socket open and dead: until the gateway says something, nothing here is certain.
  #look(): void {
    const now = Date.now();
    const slept = now - this.#ticked > 10_000;
    this.#ticked = now;
    if (this.phase !== "open") return;
    if (!this.hushed && (slept || this.#owes(now) >= patience)) {
      this.hushed = true;
      this.#o.onChange();
    }
    // One ping at a time: another would begin the wait anew, and a gateway that stands still would never be given up.
    if (this.#pinged > this.heard) {
      if (now - this.#pinged > silence) this.#lost("the gateway does not answer");
      return;
    }
    if (slept || now - this.heard >= pingEvery) {
      this.#pinged = now;
      this.heard = Math.min(this.heard, now - 1);
      this.request("ping", {}, silence).catch(() => undefined); // the next look sees that nothing was heard
    }
  }

  // For how long the gateway has said nothing while it owes an answer.
  #owes(now: number): number {
    let since = now;
    for (const { asked } of this.#waiting.values()) since = Math.min(since, asked);
    return now - Math.max(since, this.heard);
  }

  #hurry = (): void => {
    if (document.visibilityState === "hidden" || this.phase !== "waiting") return;
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => this.#connect(), Math.random() * 300);
  };
}
