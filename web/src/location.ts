/**
 * Where the page is: a view and its parameters, all of it in the part of the URL after `#`, so that it works
 * under any path and a link to it shows the same to somebody else.
 *
 * @module
 */
import { useSyncExternalStore } from "react";

import { hrefOf, parsePlace, type Place } from "./model/place.ts";

export { hrefOf } from "./model/place.ts";

export function go(path: string, query: Readonly<Record<string, string | undefined>> = {}): void {
  window.location.hash = hrefOf(path, query);
}

/** Changes parameters of this view; the way back is over the views, not over each letter typed. */
export function setQuery(changes: Readonly<Record<string, string | undefined>>): void {
  const { path, query } = parsePlace(window.location.hash);
  window.history.replaceState(null, "", hrefOf(path, { ...query, ...changes }));
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

function subscribe(listener: () => void): () => void {
  window.addEventListener("hashchange", listener);
  return () => window.removeEventListener("hashchange", listener);
}

let known: { readonly hash: string; readonly place: Place } | undefined;

function place(): Place {
  const { hash } = window.location;
  if (known?.hash !== hash) known = { hash, place: parsePlace(hash) };
  return known.place;
}

export function usePlace(): Place {
  return useSyncExternalStore(subscribe, place);
}
