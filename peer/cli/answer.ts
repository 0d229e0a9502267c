/**
 * Fields of what the relay's API answered.
 *
 * @module
 */
import type { ApiClient } from "../net/api-client.ts";

export type Answer = Readonly<Record<string, unknown>>;

export function asAnswer(value: unknown): Answer {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : {};
}

/** A text, or empty if the field is none. */
export function textOf(answer: Answer, field: string): string {
  const value = answer[field];
  return typeof value === "string" ? value : "";
}

/** Every entry of a list that comes in pages. */
export async function* entries(
  api: ApiClient,
  path: string,
  field: string,
  query: Readonly<Record<string, string | undefined>> = {},
): AsyncGenerator<Answer> {
  for (let cursor: string | undefined = ""; cursor !== undefined;) {
    const given = { ...query, ...(cursor === "" ? {} : { cursor }) };
    const parts = Object.entries(given).flatMap(([name, value]) =>
      value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`],
    );
    const page = asAnswer(
      await api.ask("GET", parts.length === 0 ? path : `${path}?${parts.join("&")}`),
    );
    const list: unknown = page[field];
    for (const entry of Array.isArray(list) ? list : []) yield asAnswer(entry);
    cursor = textOf(page, "nextCursor") || undefined;
  }
}
