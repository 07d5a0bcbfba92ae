import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import type { App } from "./app.ts";

export const Shared = createContext<App>(null as unknown as App);

/** useApp gives the shared state, and draws its user again after changes. */
export function useApp(): App {
  const app = useContext(Shared);
  const [, draw] = useState(0);
  useEffect(() => app.listen(() => draw((n) => n + 1)), [app]);
  return app;
}

export interface Route {
  page: string;
  id: string;
  query: URLSearchParams;
}

/** readRoute takes an address of the form #/page/id?query apart. */
export function readRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [page = "", id = ""] = path.split("/");
  let name = "";
  try {
    name = decodeURIComponent(id);
  } catch {
    // Nothing has such a name.
  }
  return { page: page === "" ? "fleet" : page, id: name, query: new URLSearchParams(query) };
}

/** useRoute is where the page is. */
export function useRoute(): Route {
  const [route, go] = useState(() => readRoute(location.hash));
  useEffect(() => {
    const moved = () => go(readRoute(location.hash));
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return route;
}

/** replaceQuery changes the query of the address without a step in the history. */
export function replaceQuery(page: string, query: string): void {
  history.replaceState(null, "", `#/${page}${query === "" ? "" : "?" + query}`);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function agentHref(id: string): string {
  return "#/agent/" + encodeURIComponent(id);
}
