/** A program that has a region, writes to it, and hands it over. */
import { existsSync } from "node:fs";
import { mount, Region, seed, type SeedOptions } from "../../../peer/index.ts";
import { given, Pages, say, sayError, sayEvents } from "./say.ts";

interface Given {
  readonly bytes?: number;
  readonly file?: string;
  readonly export?: string;
  /** Pages written each turn, through memory. */
  readonly writes?: number;
  readonly seed?: Pick<SeedOptions, "relay" | "key" | "stateDir" | "hookTimeoutMs">;
  readonly suspend?: "throws" | "slow";
  readonly abortAt?: string;
  /** Memory writes stay in the first half. */
  readonly half?: boolean;
  /** From the first round on this thread does nothing else but write, until this file is there. */
  readonly busyUntil?: string;
  /** Further regions, handed over with the first. */
  readonly files?: readonly string[];
  /** Leave without a word in this phase. */
  readonly dieAt?: string;
}

const options = given<Given>();
let random = 12_345;
const below = (bound: number): number => {
  random = (Math.imul(random, 1_664_525) + 1_013_904_223) >>> 0;
  return random % bound;
};

try {
  await using region =
    options.file === undefined
      ? await Region.create({ bytes: options.bytes ?? 1 << 20, name: "heap" })
      : await Region.open({ file: options.file });
  await using at =
    options.export === undefined ? undefined : await mount(region, { export: options.export });
  if (at !== undefined) say("mounted", { path: at.path });
  const more = await Promise.all((options.files ?? []).map((file) => Region.open({ file })));
  const { writes = 0, half = false } = options;
  const pages = writes > 0 ? new Pages(region.memory()) : undefined;
  const busyPages = (pages?.count ?? 0) >> (half ? 1 : 0);
  for (let page = 0; page < busyPages; page++) pages?.write(page);
  let written = busyPages;
  let timer: ReturnType<typeof setInterval> | undefined;
  const write = (): void => {
    for (let i = 0; i < writes; i++) pages?.write(below(busyPages));
    written += writes;
  };
  const go = (): void => {
    timer = setInterval(write, 5);
  };
  if (pages !== undefined) go();
  const abort = new AbortController();
  await using session = await seed([region, ...more], {
    ...options.seed,
    signal: abort.signal,
    onSuspend: async (signal) => {
      say("suspend");
      if (options.suspend === "throws") throw new Error("it does not want to stop");
      clearInterval(timer);
      if (options.suspend === "slow") {
        await new Promise((_, reject) => {
          signal.addEventListener("abort", () => reject(new Error("told to stop")));
        });
      }
      say("suspended", { written, sum: pages?.sum(busyPages) });
    },
    onRollback: () => {
      say("rollback");
      clearInterval(timer);
      if (pages !== undefined) go();
    },
    onRelease: () => say("release"),
  });
  say("ticket", { ticket: session.ticket, session: session.id });
  const events = sayEvents(session);
  const { abortAt, dieAt, busyUntil } = options;
  session.on("phase", ({ phase }) => {
    if (phase === abortAt) abort.abort();
    if (phase === dieAt) process.kill(process.pid, "SIGKILL");
  });
  const off = session.on("round", () => {
    off();
    if (busyUntil === undefined) return;
    say("busy");
    while (!existsSync(busyUntil)) write();
    say("idle");
  });
  try {
    const totals = await session.done;
    say("done", { ...totals, state: region.state, gone: pages?.gone, phase: session.phase });
  } catch (error) {
    sayError(error);
    const before = written;
    await new Promise((resolve) => setTimeout(resolve, 50));
    clearInterval(timer);
    say("still here", {
      state: region.state,
      wrote: written - before,
      sum: pages?.sum(busyPages),
      written,
    });
  }
  await events;
  for (const one of more) await one.close();
} catch (error) {
  sayError(error);
}
say("end");
