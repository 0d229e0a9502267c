/** A program that takes a region over, and looks at every byte of it while chunks are still missing. */
import { existsSync } from "node:fs";
import { leech, type LeechOptions } from "../../../peer/index.ts";
import { given, Pages, say, sayError, sayEvents } from "./say.ts";

interface Given {
  readonly ticket: string;
  readonly leech: Omit<LeechOptions, "signal" | "onResume">;
  /** Look at memory at once, from the last page to the first. */
  readonly touch?: boolean;
  readonly abortAt?: string;
  readonly abandonAt?: string;
  /** Hand over once this file is there. */
  readonly finalizeWhen?: string;
}

const options = given<Given>();
try {
  const abort = new AbortController();
  await using session = await leech(options.ticket, {
    ...options.leech,
    signal: abort.signal,
    onResume: (region, { regions }) => {
      say("resume", { region: region.name, regions: regions.map(({ name }) => name) });
    },
  });
  say("joined", { session: session.id });
  const events = sayEvents(session);
  session.on("phase", ({ phase }) => {
    if (phase === options.abortAt) abort.abort();
    if (phase === options.abandonAt) void session.abandon("the operator left");
  });
  const { finalizeWhen } = options;
  if (finalizeWhen !== undefined) {
    const look = setInterval(() => {
      if (!existsSync(finalizeWhen)) return;
      clearInterval(look);
      session.finalize();
    }, 20);
  }
  try {
    if (options.touch === true) {
      const region = await session.resumed;
      const missing = region.stats().presentChunks;
      const pages = new Pages(region.memory());
      let sum = 0;
      for (let page = pages.count - 1; page >= 0; page--) sum += pages.check(page);
      say("checked", { sum, present: missing, misses: region.stats().misses });
    }
    const totals = await session.done;
    say("done", {
      ...totals,
      state: session.region.state,
      paths: session.paths,
      fingerprint: session.fingerprint,
    });
  } catch (error) {
    sayError(error);
    const why = await session.resumed.then(
      () => "resumed",
      (reason: unknown) => String(reason),
    );
    say("not here", {
      why,
      committed: session.committed,
      state: session.regions.map(({ state }) => state),
    });
  }
  await events;
} catch (error) {
  sayError(error);
}
say("end");
