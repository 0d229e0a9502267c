/**
 * The workload of the fault tests: rows into the demo's SQLite database, one synced transaction each, whenever it
 * is told to run: `workload.ts PATH CONTROL ANSWER BYTES_MAX`.
 *
 * `start` on the control pipe opens the database and goes on writing; `stop` finishes the transaction, closes the
 * database and says `stopped` on the answer pipe. Both may come twice. It knows nothing of memferry: an error of
 * SQLite ends it, and is a failed test.
 */
import { constants, openSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { isFull, Ledger } from "../../../peer/demo/ledger.ts";

const [path = "", control = "", answer = "", bytesMax = "0"] = process.argv.slice(2);
const PAUSE_MS = 4;

let running = false;
let writing: Promise<void> | undefined;

const say = (message: Readonly<Record<string, unknown>>): void => {
  process.stdout.write(`${JSON.stringify(message)}\n`);
};

async function write(): Promise<void> {
  const ledger = Ledger.open(path, Number(bytesMax));
  try {
    let id = ledger.lastId;
    say({ event: "opened", nextId: id + 1 });
    while (running) {
      try {
        ledger.transaction(() => ledger.insert(id + 1, 300));
        id++;
        say({ event: "committed", id });
      } catch (error) {
        if (!isFull(error)) throw error;
        ledger.transaction(() => ledger.rewrite(1 + (Date.now() % id)));
      }
      await sleep(PAUSE_MS);
    }
  } finally {
    ledger.close();
  }
}

const answers = openSync(answer, constants.O_RDWR | constants.O_NONBLOCK);
const words = new Socket({ fd: openSync(control, constants.O_RDWR | constants.O_NONBLOCK) });
words.setEncoding("utf8").on("data", (text: string) => {
  for (const word of text.split(/\s+/).filter(Boolean)) {
    if (word === "start" && !running) {
      running = true;
      writing = write().catch((error: unknown) => {
        say({ event: "error", message: error instanceof Error ? error.message : String(error) });
        process.exit(1);
      });
    }
    if (word === "stop") {
      running = false;
      void Promise.resolve(writing).then(() => {
        say({ event: "stopped" });
        writeSync(answers, "stopped\n");
      });
    }
  }
});
process.on("SIGTERM", () => {
  running = false;
  void Promise.resolve(writing).then(() => process.exit(0));
});
say({ event: "ready" });
