/**
 * What a peer says of its path, and how steadily what it gets arrives.
 *
 * @module
 */
import { statSync } from "node:fs";

import type { Message, Program } from "../../e2e/program.ts";

const POLL_MS = 5;
const BLOCK_BYTES = 512;
/** Events that say which path there is from now on. */
const PATH_EVENTS = ["channel", "path", "done"];

/** The paths that a peer said it used, one after the other. */
export function pathsOf(program: Program): string[] {
  const told = program.messages.map(pathOf).filter((path) => path !== undefined);
  return told.filter((path, i) => path !== told[i - 1]);
}

/** The path that an event of a peer tells of. */
export function pathOf(message: Message): string | undefined {
  const { event, path } = message;
  return typeof path === "string" && PATH_EVENTS.includes(String(event)) ? path : undefined;
}

/** Looks at a file that was made without reserving its blocks, while it is being filled. */
export class Arrivals implements Disposable {
  /** As `performance.now()`; `undefined` while there is nothing. */
  firstAtMs: number | undefined;
  bytes = 0;
  /** The longest time in which nothing came, from the first to the last that did. */
  longestStallMs = 0;
  readonly #timer: NodeJS.Timeout;
  #lastAtMs = 0;

  constructor(file: string) {
    this.#timer = setInterval(() => this.#look(file), POLL_MS);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #look(file: string): void {
    const bytes = (statSync(file, { throwIfNoEntry: false })?.blocks ?? 0) * BLOCK_BYTES;
    if (bytes <= this.bytes) return;
    const nowMs = performance.now();
    if (this.firstAtMs === undefined) this.firstAtMs = nowMs;
    else this.longestStallMs = Math.max(this.longestStallMs, nowMs - this.#lastAtMs);
    this.#lastAtMs = nowMs;
    this.bytes = bytes;
  }
}
