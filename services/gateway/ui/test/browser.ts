// What the page needs of a browser, and a gateway that does as it is told: for tests in node with its fake timers.

import { mock } from "node:test";

type Handler = (payload: any) => unknown;

/** Socket is a WebSocket whose other end is a Gateway. */
class Socket {
  static readonly CONNECTING = 0;
  static readonly OPEN = 1;
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: ((close: { code: number; reason: string }) => void) | null = null;

  constructor() {
    gateway.sockets.push(this);
    setImmediate(() => {
      if (!gateway.reachable) return this.end(1006, "");
      this.readyState = 1;
      this.onopen?.();
    });
  }

  send(text: string): void {
    const { request_id, type, payload } = JSON.parse(text);
    if (type === undefined) return; // an answer
    gateway.asked.push({ type, payload, at: Date.now() });
    if (gateway.frozen || gateway.owes.has(type)) return;
    let answer: Record<string, unknown>;
    try {
      answer = { ok: true, result: gateway.serves[type]?.(payload) ?? {} };
    } catch (error) {
      answer = { ok: false, error: { code: "forbidden", message: (error as Error).message } };
    }
    this.say({ request_id, type, ...answer });
  }

  say(frame: unknown): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  end(code: number, reason: string): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  close(): void {
    if (this.readyState === Socket.CONNECTING) throw new Error("closed before it was open: browsers complain of that");
    this.readyState = 3;
  }
}

/** gateway is the other end of every socket, and what answers over HTTP. */
export const gateway = {
  sockets: [] as Socket[],
  asked: [] as { type: string; payload: any; at: number }[],
  /** frozen answers nothing on sockets; owes answers all but these. */
  frozen: false,
  owes: new Set<string>(),
  reachable: true,
  serves: {} as Record<string, Handler>,
  /** pages answer over HTTP, by path without query. */
  pages: {} as Record<string, (url: string) => { status?: number; body: unknown } | Promise<never>>,
  fetched: [] as string[],
  tenant: "acme",
  reloads: 0,

  /** socket is the newest one. */
  socket(): Socket {
    return this.sockets.at(-1) as Socket;
  },

  /** reset forgets what a test made of it. */
  reset(): void {
    this.sockets = [];
    this.asked = [];
    this.fetched = [];
    this.frozen = false;
    this.owes = new Set();
    this.reachable = true;
    this.tenant = "acme";
    this.reloads = 0;
    this.pages = {};
    this.serves = {
      "connect.init": () => ({ connection_id: "c" + this.sockets.length, challenge: "?" }),
      "connect.proof": () => ({
        client_id: "c" + this.sockets.length,
        device_id: "dev_ui",
        role: "client",
        tenant_id: this.tenant,
        gateway: { instance_id: "dev_g1", incarnation: "i1", version: "1" },
        ping_ms: 1,
        cursor: "x-1",
      }),
    };
  },

  times(type: string): number {
    return this.asked.filter((a) => a.type === type).length;
  },
};

const made = crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
const kept = new Map<string, string>();

function request(result: Promise<unknown>): { onsuccess?: () => void; result?: unknown } {
  const r: { onsuccess?: () => void; result?: unknown } = {};
  void result.then((value) => {
    r.result = value;
    r.onsuccess?.();
  });
  return r;
}

/** page makes this process look like a browser. */
export function page(): { document: EventTarget & { visibilityState: string } } {
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  const store = { get: () => request(made) };
  const stands = new EventTarget();
  Object.assign(globalThis, {
    window: globalThis,
    document,
    isSecureContext: true,
    WebSocket: Socket,
    location: { origin: "http://127.0.0.1:1", hash: "", reload: () => gateway.reloads++ },
    addEventListener: stands.addEventListener.bind(stands),
    removeEventListener: stands.removeEventListener.bind(stands),
    requestAnimationFrame: (f: () => void) => setImmediate(f),
    indexedDB: { open: () => request(Promise.resolve({ transaction: () => ({ objectStore: () => store }), close() {} })) },
    localStorage: { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => void kept.set(key, value) },
    fetch: async (url: string) => {
      gateway.fetched.push(url);
      const answer = await gateway.pages[url.split("?")[0] as string]?.(url);
      const { status = 200, body } = answer ?? { status: 404, body: { detail: "no such page" } };
      return new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } });
    },
  });
  return { document };
}

/** turns lets everything go on that waits for no timer. */
export async function turns(n = 50): Promise<void> {
  for (let i = 0; i < n; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** until waits, in real time and with the clock standing still, until something is so. */
export async function until(what: string, is: () => boolean): Promise<void> {
  const began = performance.now();
  while (!is()) {
    if (performance.now() - began > 20_000) throw new Error("never: " + what);
    await turns(1);
  }
}

/** pass lets time pass, a quarter of a second at once, with everything done in between. */
export async function pass(ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 250) {
    mock.timers.tick(Math.min(250, left));
    await turns();
  }
}
