/**
 * A view and its parameters, as the part of the URL after `#`.
 *
 * @module
 */
export interface Place {
  /** Without a slash at either end; empty for the overview. */
  readonly path: string;
  readonly query: Readonly<Record<string, string>>;
}

export function parsePlace(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  return {
    path: path.replace(/\/+$/, ""),
    query: Object.fromEntries(new URLSearchParams(query)),
  };
}

/** @param query What is empty or undefined is left out. */
export function hrefOf(
  path: string,
  query: Readonly<Record<string, string | undefined>> = {},
): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") search.set(name, value);
  }
  const text = search.toString();
  return `#/${path}${text === "" ? "" : `?${text}`}`;
}
