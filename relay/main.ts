/**
 * `memferry relay`.
 *
 * @module
 */
import "./heap-limits.ts";
import process from "node:process";

import { HELP, readConfig, type RelayConfig } from "./config.ts";
import { checkConfig } from "./config/check.ts";
import { RelayError } from "./errors.ts";
import { createLog } from "./log.ts";
import { messageOf } from "./protocol/errors.ts";
import { startRelay, type Relay } from "./relay.ts";

const outcome = readConfig();
switch (outcome.kind) {
  case "help":
    process.stdout.write(HELP);
    break;
  case "problems":
    for (const problem of outcome.problems) process.stderr.write(`memferry relay: ${problem}\n`);
    process.exitCode = 2;
    break;
  case "check":
    await check(outcome.config, outcome.problems);
    break;
  case "config":
    await run(outcome.config);
    break;
}

/** All of it to standard error, one line a problem; what cannot be looked at does not make it worse. */
async function check(config: RelayConfig, called: readonly string[]): Promise<void> {
  const { problems, notes } = await checkConfig(config);
  const all = [...called, ...problems];
  if (config.json) {
    process.stdout.write(`${JSON.stringify({ event: "checked", problems: all, notes })}\n`);
  } else {
    for (const line of [...all, ...notes]) process.stderr.write(`memferry relay: ${line}\n`);
    if (all.length === 0) process.stdout.write("memferry relay: nothing is wrong\n");
  }
  process.exitCode = all.length === 0 ? 0 : 2;
}

async function run(config: RelayConfig): Promise<void> {
  const log = createLog({
    level: config.logLevel,
    format: config.json || !process.stderr.isTTY ? "json" : "text",
    write: (line) => process.stderr.write(`${line}\n`),
  });
  // From here on, or a signal during the start would leave half of it behind.
  const stop = Promise.withResolvers<string>();
  let signalled = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      // Whoever asks twice does not want to wait.
      if (signalled) process.exit(1);
      signalled = true;
      stop.resolve(signal);
    });
  }
  let relay: Relay;
  try {
    relay = await startRelay(config, log);
  } catch (error) {
    process.stderr.write(`memferry relay: ${messageOf(error)}\n`);
    if (!(error instanceof RelayError) || error.code === "INTERNAL") {
      log("error", "could not start", {
        reason: error instanceof Error ? (error.stack ?? error.message) : String(error),
      });
    }
    process.exit(1);
  }
  announce(config, relay);
  const signal = await stop.promise;
  log("info", "stopping", { signal });
  await relay.close();
  // A library may still hold a handle; everything of ours is closed.
  process.exit(0);
}

/** To standard output: one line for a machine, a few for a person. */
function announce(config: RelayConfig, relay: Relay): void {
  const { url, dashboardUrl, certificateHashes, identity, links, runtime, key } = relay;
  if (config.json) {
    const ready = {
      event: "ready",
      url,
      dashboard: dashboardUrl ?? null,
      certificateHashes,
      identity,
      links,
      runtime,
      keyFile: key.file,
    };
    process.stdout.write(`${JSON.stringify(ready)}\n`);
    return;
  }
  const lines = [
    `memferry relay ${relay.version} on ${runtime}`,
    `  peers and API  ${url}  (${links.join(", ")})`,
    ...(dashboardUrl === undefined ? [] : [`  console        ${dashboardUrl}`]),
    ...certificateHashes.map((hash) => `  certificate    sha-256 ${hash}`),
    `  API key        in ${key.file}`,
  ];
  // Once, and to a person: anything else that reads this may keep it.
  if (key.created !== undefined && process.stdout.isTTY) {
    lines.push(`                 ${key.created}  (shown this once)`);
  }
  process.stdout.write(`${lines.join("\n")}\n`);
}
