/** A whole migration from /dev/nbd0 to /dev/nbd1 under a writer, in a guest: run by `test/exports/guest.test.ts`. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { Stage } from "../e2e/harness.ts";
import { startPostgres } from "../support/postgres.ts";

const BLOCK = 4096;
await using postgres = await startPostgres();
const stage = await Stage.open();
try {
  // The embedded database is WebAssembly, which V8 does not survive on an emulated processor.
  await stage.relay({ databaseUrl: postgres.url });
  const stop = stage.file("stop");
  const suspend = `touch ${stop}; while [ -e ${stop} ]; do sleep 0.05; done`;
  const { seeder, ticket } = await stage.seed([
    "--size",
    "16MiB",
    "--region",
    "disk",
    "--export",
    "nbd:/dev/nbd0",
    "--link",
    "websocket",
    "--on-suspend",
    suspend,
  ]);
  // Writes the number of the round into block after block, each durable before the next.
  const script = `
    n=0
    while [ ! -e ${stop} ]; do
      n=$((n + 1))
      printf '%4096d' $n > ${stage.file("block")}
      dd if=${stage.file("block")} of=/dev/nbd0 bs=4096 seek=$((n % 4096)) conv=notrunc,fsync 2>/dev/null || exit 1
      echo $n > ${stage.file("count")}
    done
    rm ${stop}`;
  const writer = spawn("/bin/sh", ["-c", script], { stdio: "inherit" });
  const ended = new Promise<number | null>((resolve) => writer.once("close", resolve));
  await sleep(1000);
  const leecher = stage.leech(ticket, [
    "--file",
    stage.file("disk.img"),
    "--export",
    "nbd:/dev/nbd1",
    "--link",
    "websocket",
  ]);
  await leecher.waitFor("serving", undefined, 60_000);
  assert.equal(await ended, 0);
  await seeder.expectExit(0, 60_000);
  const last = Number(readFileSync(stage.file("count"), "utf8"));
  assert.ok(last > 10, `the writer came to ${last}`);
  const device = readFileSync("/dev/nbd1");
  for (let n = Math.max(1, last - 4000); n <= last; n++) {
    const at = (n % 4096) * BLOCK;
    assert.equal(Number(device.toString("latin1", at, at + BLOCK)), n);
  }
  leecher.kill("SIGINT");
  await leecher.expectExit(0, 60_000);
  console.log(`ok ${last} durable writes, from /dev/nbd0 to /dev/nbd1`);
} catch (error) {
  console.log(`not ok ${error instanceof Error ? error.stack : String(error)}`);
  process.exitCode = 1;
} finally {
  await stage[Symbol.asyncDispose]();
}
