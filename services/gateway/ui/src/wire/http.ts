// Questions over HTTP. The cookie says who asks, and no script can read it.

export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** ask gets JSON from this origin. */
export async function ask<T>(path: string, wait = 15_000): Promise<T> {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(wait) });
  const type = response.headers.get("Content-Type") ?? "";
  const body: any = type.includes("json") ? await response.json() : undefined;
  if (!response.ok) throw new Refused(response.status, body?.detail ?? response.statusText);
  if (body === undefined) throw new Refused(response.status, "no JSON");
  return body as T;
}

/** probe gets a path and tells its status and text, whatever they are. */
export async function probe(path: string, wait: number): Promise<{ status: number; text: string }> {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(wait) });
  return { status: response.status, text: await response.text() };
}

/** signIn turns an access token into a cookie that no script can read. */
export async function signIn(text: string): Promise<void> {
  const response = await fetch("/auth/cookie", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token: text }),
    signal: AbortSignal.timeout(15_000),
  });
  if (response.ok) return;
  const type = response.headers.get("Content-Type") ?? "";
  const body: any = type.includes("json") ? await response.json() : undefined;
  throw new Refused(response.status, body?.detail ?? response.statusText);
}

/** signOut takes the cookie away. */
export async function signOut(): Promise<void> {
  await fetch("/auth/cookie", { method: "DELETE", signal: AbortSignal.timeout(15_000) });
}
