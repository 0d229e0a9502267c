/**
 * Which sessions a list shows, and in which order.
 *
 * @module
 */
import type { SessionBody } from "../../../relay/app.ts";
import { attentionOf, ENDED, nameOf } from "./session.ts";

type Compare = (a: SessionBody, b: SessionBody) => number;

const created = (session: SessionBody): string => session.timings.createdAt;
const byText =
  (of: (session: SessionBody) => string): Compare =>
  (a, b) =>
    of(a).localeCompare(of(b));
const byNumber =
  (of: (session: SessionBody) => number): Compare =>
  (a, b) =>
    of(b) - of(a);

export const SORTS = {
  newest: { label: "Newest first", compare: (a, b) => (created(a) < created(b) ? 1 : -1) },
  attention: {
    label: "Attention first",
    compare: (a, b) => (attentionOf(a)?.rank ?? 9) - (attentionOf(b)?.rank ?? 9),
  },
  name: { label: "By name", compare: byText(nameOf) },
  size: { label: "Largest first", compare: byNumber(({ region }) => region?.bytes ?? 0) },
  rate: {
    label: "Fastest first",
    compare: byNumber(({ progress }) => progress?.sendBytesPerS ?? 0),
  },
} as const satisfies Readonly<Record<string, { label: string; compare: Compare }>>;

export type Sort = keyof typeof SORTS;

export interface SessionFilter {
  /** Words, all of which must occur in the name, a label, a host or the id. */
  readonly text: string;
  /** A state, `live`, `attention`, or empty for all. */
  readonly state: string;
  readonly sort: Sort;
}

export function filterSessions(
  sessions: readonly SessionBody[],
  { text, state, sort }: SessionFilter,
): readonly SessionBody[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = sessions.filter(
    (session) => matchesState(session, state) && words.every((word) => matches(session, word)),
  );
  // What comes from a URL may be anything.
  const { compare } = Object.hasOwn(SORTS, sort) ? SORTS[sort] : SORTS.newest;
  return sort === "newest" ? found : found.sort(compare);
}

function matchesState(session: SessionBody, state: string): boolean {
  if (state === "") return true;
  if (state === "live") return !ENDED.has(session.state);
  if (state === "attention") return attentionOf(session) !== undefined;
  return session.state === state;
}

function matches(session: SessionBody, word: string): boolean {
  const { id, labels, seeder, leecher } = session;
  const texts = [
    nameOf(session),
    id,
    seeder.host ?? "",
    leecher.host ?? "",
    ...Object.entries(labels).map(([name, value]) => `${name}:${value}`),
  ];
  return texts.some((text) => text.toLowerCase().includes(word));
}
