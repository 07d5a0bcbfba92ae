// The device of this browser: an Ed25519 key that WebCrypto keeps. Its private half can be used and never read.

const database = "rollcall";
const store = "device";

export interface Device {
  id: string;
  pubkey: string;
  privateKey: CryptoKey;
}

let loaded: Promise<Device> | undefined;

/** device is this browser's device; it is made once and kept in IndexedDB. */
export function device(): Promise<Device> {
  loaded ??= load().catch((error: unknown) => {
    loaded = undefined;
    throw error;
  });
  return loaded;
}

/** prove signs what connect.proof asks for. */
export async function prove(d: Device, connection: string, challenge: string): Promise<string> {
  const lines = ["rollcall-connect-proof", "protocol_rev=2", "role=client", `device_id=${d.id}`, `connection_id=${connection}`, `challenge=${challenge}`];
  const text = new TextEncoder().encode(lines.map((line) => line + "\n").join(""));
  return base64url(new Uint8Array(await crypto.subtle.sign("Ed25519", d.privateKey, text)));
}

async function load(): Promise<Device> {
  if (!globalThis.isSecureContext) throw new Error("This page needs https, or an address of this machine: elsewhere the browser offers no keys.");
  const db = await open();
  try {
    let pair = await ask<CryptoKeyPair | undefined>(db.transaction(store).objectStore(store).get("key"));
    if (!pair) {
      const made = (await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"])) as CryptoKeyPair;
      // Two tabs may both get here: the first to store its key wins, and the other takes that one.
      const place = db.transaction(store, "readwrite").objectStore(store);
      pair = await ask<CryptoKeyPair | undefined>(place.get("key"));
      if (!pair) {
        await ask(place.put(made, "key"));
        pair = made;
      }
    }
    const spki = new Uint8Array(await crypto.subtle.exportKey("spki", pair.publicKey));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", spki));
    return { id: "dev_" + base32(digest), pubkey: base64url(spki), privateKey: pair.privateKey };
  } finally {
    db.close();
  }
}

function open(): Promise<IDBDatabase> {
  const request = indexedDB.open(database, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(store);
  return ask(request);
}

function ask<T>(request: IDBRequest): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result as T);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB failed"));
  });
}

/** base64url encodes without padding. */
export function base64url(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** base32 encodes in lower case, without padding. */
export function base32(bytes: Uint8Array): string {
  const alphabet = "abcdefghijklmnopqrstuvwxyz234567";
  let out = "";
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xffff;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      out += alphabet[(value >>> bits) & 31];
    }
  }
  if (bits > 0) out += alphabet[(value << (5 - bits)) & 31];
  return out;
}
