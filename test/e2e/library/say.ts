/**
 * What the programs of the library's tests share: they speak in JSON lines, and check memory page by page.
 *
 * @module
 */
import type { Session, SessionEvent } from "../../../peer/index.ts";

export const PAGE_BYTES = 4096;
const WORDS = PAGE_BYTES / 4;

export function say(event: string, more: Readonly<Record<string, unknown>> = {}): void {
  process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
}

export function sayError(error: unknown): void {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  say("error", { name, code, message });
}

/** Everything that happens, in order, but for the numbers. */
export async function sayEvents(session: Session): Promise<void> {
  for await (const event of session.events()) sayEvent(event);
}

function sayEvent(event: SessionEvent): void {
  if (event.event !== "progress") say("happened", { what: event });
}

/** What stands in a word of a page that was written so often. */
function wordOf(page: number, word: number, count: number): number {
  return (Math.imul(page + 1, 2_654_435_761) ^ Math.imul(word, 40_503) ^ (count << 1)) >>> 0;
}

/** A counter in the first word of each page; the rest follows from it. */
export class Pages {
  readonly #words: Uint32Array;
  readonly count: number;

  constructor(memory: ArrayBuffer) {
    this.#words = new Uint32Array(memory);
    this.count = Math.floor(this.#words.length / WORDS);
  }

  get gone(): boolean {
    return this.#words.length === 0;
  }

  write(page: number): void {
    const at = page * WORDS;
    const count = (this.#words[at] ?? 0) + 1;
    for (let word = 1; word < WORDS; word++) this.#words[at + word] = wordOf(page, word, count);
    this.#words[at] = count;
  }

  /** @throws if a byte of the page is not as it was written */
  check(page: number): number {
    const at = page * WORDS;
    const count = this.#words[at] ?? 0;
    for (let word = 1; word < WORDS; word++) {
      const [is, due] = [this.#words[at + word], count === 0 ? 0 : wordOf(page, word, count)];
      if (is !== due) throw new Error(`page ${page}, word ${word}: ${is} where ${due} is due`);
    }
    return count;
  }

  /** Of the counters of the first pages: how often anybody wrote. */
  sum(count = this.count): number {
    let sum = 0;
    for (let page = 0; page < count; page++) sum += this.check(page);
    return sum;
  }
}

/** JSON of the last argument. */
export function given<T>(): T {
  // The test that starts the program writes it.
  return JSON.parse(process.argv[2] ?? "{}") as T;
}
