/**
 * A process of the demo: a program that writes to a SQLite database and knows nothing of memferry.
 *
 * `writer.ts PATH --control FIFO --answer FIFO --rows-per-second N --bytes-max N [--wait]`
 *
 * One transaction per new row; every few rows an older one, anywhere in the database, is rewritten in the
 * same transaction. `start` on the control pipe begins (with `--wait`; else it begins at once), `stop`
 * finishes the transaction, closes the database, says `stopped` on the answer pipe and ends the process.
 *
 * What it prints, a JSON object per line: `ready`; `opened` with the first row's number; `committed` with
 * rows that SQLite has committed, never earlier; `full` once there is no room for more rows; `stopped`.
 * Times are CLOCK_MONOTONIC, so those of two processes can be compared.
 *
 * @module
 */
import { constants, openSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import { randomInt } from "node:crypto";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { isFull, Ledger } from "./ledger.ts";

const PAYLOAD_BYTES_MIN = 200;
const PAYLOAD_BYTES_MAX = 600;
/** One transaction in so many also rewrites an older row. */
const ROWS_PER_REWRITE = 8;
const REPORT_INTERVAL_MS = 50;

function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

function say(message: Readonly<Record<string, unknown>>): void {
  // Pipes are written synchronously: what was said has left this process.
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

/** Words from a named pipe. It is opened for both ways, so that it never ends and opening never waits. */
function listen(fifo: string, onWord: (word: string) => void): Socket {
  const pipe = new Socket({ fd: openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK) });
  pipe.setEncoding("utf8");
  pipe.on("data", (text: string) => {
    for (const word of text.split(/\s+/)) if (word !== "") onWord(word);
  });
  return pipe;
}

/** What was committed and not yet told. */
class Acknowledgements {
  #first = 0;
  #last = 0;
  #firstAtMs = 0;
  #lastAtMs = 0;
  #rewritten: [id: number, version: number][] = [];
  #toldAtMs = nowMs();

  add(id: number | undefined, rewritten: [id: number, version: number] | undefined): void {
    const atMs = nowMs();
    if (this.#firstAtMs === 0) this.#firstAtMs = atMs;
    if (id !== undefined) {
      if (this.#first === 0) this.#first = id;
      this.#last = id;
    }
    if (rewritten !== undefined) this.#rewritten.push(rewritten);
    this.#lastAtMs = atMs;
    this.tellIfDue();
  }

  tellIfDue(): void {
    if (nowMs() - this.#toldAtMs >= REPORT_INTERVAL_MS) this.tell();
  }

  tell(): void {
    if (this.#firstAtMs === 0) return;
    say({
      event: "committed",
      first: this.#first,
      last: this.#last,
      firstAtMs: this.#firstAtMs,
      lastAtMs: this.#lastAtMs,
      rewritten: this.#rewritten,
    });
    this.#first = this.#last = this.#firstAtMs = this.#lastAtMs = 0;
    this.#rewritten = [];
    this.#toldAtMs = nowMs();
  }
}

async function write(ledger: Ledger, rowsPerSecond: number, isOver: () => boolean): Promise<void> {
  const acknowledgements = new Acknowledgements();
  const intervalMs = 1000 / rowsPerSecond;
  let id = ledger.lastId;
  let full = false;
  let dueMs = nowMs();
  while (!isOver()) {
    const early = dueMs - nowMs();
    if (early > 0) {
      acknowledgements.tellIfDue();
      // Timers count in milliseconds: what a sleep overshoots, the next transactions catch up.
      await sleep(early);
      continue;
    }
    // A program that was held up does not work off its whole backlog at once.
    dueMs = Math.max(dueMs + intervalMs, nowMs() - 20 * intervalMs);
    const older = full || id % ROWS_PER_REWRITE === 0 ? 1 + randomInt(id) : undefined;
    try {
      const rewritten = ledger.transaction((): [number, number] | undefined => {
        if (!full) ledger.insert(id + 1, randomInt(PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MAX));
        return older === undefined ? undefined : [older, ledger.rewrite(older)];
      });
      if (!full) id++;
      acknowledgements.add(full ? undefined : id, rewritten);
    } catch (error) {
      if (!isFull(error)) throw error;
      // Even a row that only changes can need another page; there are others that do not.
      if (!full) say({ event: "full" });
      full = true;
    }
    await turn();
  }
  acknowledgements.tell();
}

async function main(): Promise<void> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      control: { type: "string" },
      answer: { type: "string" },
      "rows-per-second": { type: "string", default: "1000" },
      "bytes-max": { type: "string" },
      wait: { type: "boolean", default: false },
    },
  });
  const path = positionals[0] ?? "";
  const answer = openSync(values.answer ?? "", constants.O_RDWR | constants.O_NONBLOCK);
  let begin = (): void => undefined;
  let over = false;
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  const control = listen(values.control ?? "", (word) => {
    if (word === "stop") over = true;
    begin();
  });
  // Whoever started this process holds its standard input: if that one is gone, there is nobody to tell.
  process.stdin.on("end", () => process.exit(1)).resume();

  say({ event: "ready" });
  if (values.wait) await begun;
  if (!over) {
    const ledger = Ledger.open(path, Number(values["bytes-max"]));
    say({ event: "opened", nextId: ledger.lastId + 1, atMs: nowMs() });
    try {
      await write(ledger, Number(values["rows-per-second"]), () => over);
    } finally {
      ledger.close();
    }
  }
  say({ event: "stopped" });
  writeSync(answer, "stopped\n");
  control.destroy();
  process.stdin.destroy();
}

main().catch((error: unknown) => {
  say({ event: "error", message: error instanceof Error ? error.message : String(error) });
  process.exit(1);
});
