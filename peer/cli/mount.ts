/**
 * `memferry mount`: a region that stays in a store.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import { Exports } from "../export/exports.ts";
import type { ExportPlace } from "../export/place.ts";
import { isServed, parseExport, type ServedExport } from "../export/spec.ts";
import type { CachePlace } from "../mount/mount-cache.ts";
import { chunksOf, inTurn, parseRange, sequential } from "../mount/pull-order.ts";
import {
  StoreMount,
  type StoreMountOptions,
  type StoreMountProgress,
} from "../mount/store-mount.ts";
import { openStore } from "../store/open-store.ts";
import { parseStore } from "../store/spec.ts";
import { StoreError, type Store } from "../store/store.ts";
import { usage, type Arguments } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import { Interrupt } from "./interrupt.ts";
import type { Output } from "./output.ts";
import { readWorkingSet, WorkingSet } from "../mount/working-set.ts";
import { ExportOptions, requireName } from "./region-options.ts";
import { formatBytes, formatDuration } from "./size.ts";

const CHUNK_BYTES_DEFAULT = 64 * 1024;
const PUSH_INTERVAL_DEFAULT_MS = 5_000;
const FAIL_AFTER_DEFAULT_MS = 5 * 60_000;
const PROGRESS_INTERVAL_MS = 500;
const PULL_MAX = 1024;

interface Plan {
  readonly export: ServedExport;
  readonly name: string;
  readonly readOnly: boolean;
  readonly cache: CachePlace;
  readonly settings: Omit<StoreMountOptions, "store" | "cache" | "order">;
}

export async function mount(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const [text] = args.positionals;
  if (text === undefined) throw usage("STORE is missing: where are the region's bytes?");
  const spec = parseStore(text);
  const plan = planOf(args, output);
  using interrupt = new Interrupt();
  const bytes = args.size("size");
  const store = await openStore(spec, {
    ...(bytes === undefined ? {} : { bytes }),
    blockBytes: plan.settings.chunkBytes,
    readOnly: plan.readOnly,
  });
  const { chunkBytes } = plan.settings;
  const exports = new Exports();
  let mounted: StoreMount | undefined;
  try {
    const ranges = args.texts("priority").map((range) => parseRange(range, store.bytes));
    const replay = args.text("replay");
    if (replay !== undefined) ranges.push(...(await readWorkingSet(replay, store.bytes)));
    const recorded = recordingOf(args, store.bytes, chunkBytes);
    mounted = await StoreMount.open({
      ...plan.settings,
      ...(recorded === undefined ? {} : { pull: 0, onFault: (chunk) => recorded.set.note(chunk) }),
      store,
      cache: plan.cache,
      order: inTurn(chunksOf(ranges, chunkBytes), sequential(Math.ceil(store.bytes / chunkBytes))),
    });
    // Before programs can see it: what it opens with is on its way then.
    mounted.start();
    const place = await show(exports, mounted, plan, new ExportOptions(args));
    return await serve({ store, mounted, exports, place, plan, recorded, interrupt, output });
  } catch (error) {
    await exports.close();
    await mounted?.close().catch(() => undefined);
    throw error;
  } finally {
    await store.close();
  }
}

async function show(
  exports: Exports,
  mounted: StoreMount,
  plan: Plan,
  { tls }: ExportOptions,
): Promise<ExportPlace> {
  exports.open([plan.export], {
    holdings: { stores: {}, mounts: {} },
    session: `/proc/${process.pid}`,
    ...(tls === undefined ? {} : { tls }),
  });
  const place = exports.add(plan.export, plan.name, mounted.region, { readOnly: plan.readOnly });
  exports.serve();
  await exports.attach();
  return place;
}

interface Recording {
  readonly path: string;
  readonly set: WorkingSet;
}

/** @throws MigrationError `USAGE` */
function recordingOf(args: Arguments, bytes: number, chunkBytes: number): Recording | undefined {
  const path = args.text("record");
  if (path === undefined) return undefined;
  if (args.text("pull") !== undefined) {
    throw usage(
      "--record sees what programs ask for only while nothing is pulled ahead: leave out --pull",
    );
  }
  return { path, set: new WorkingSet(bytes, chunkBytes) };
}

interface Served {
  readonly store: Store;
  readonly mounted: StoreMount;
  readonly exports: Exports;
  readonly place: ExportPlace;
  readonly plan: Plan;
  readonly recorded: Recording | undefined;
  readonly interrupt: Interrupt;
  readonly output: Output;
}

async function serve(served: Served): Promise<ExitCodeValue> {
  const { store, mounted, place, plan, recorded, interrupt, output } = served;
  const path = place.pathOf(plan.name);
  output.event({
    event: "mounted",
    path,
    store: store.name,
    bytes: store.bytes,
    mode: plan.settings.mode,
  });
  output.result(path);
  output.note(`${formatBytes(store.bytes)} of ${store.name} are at ${path}; Ctrl-C ends it`);
  let pulled = false;
  const timer = setInterval(() => {
    const progress = mounted.progress();
    showProgress(output, progress);
    recorded?.set
      .write(recorded.path)
      .catch((error: unknown) => output.note(`warning: ${messageOf(error)}`));
    if (progress.pulled && !pulled && progress.bytesPresent === progress.bytesTotal) {
      pulled = true;
      output.event({ event: "pulled", bytes: progress.bytesPresent });
    }
  }, PROGRESS_INTERVAL_MS);
  const ended = Promise.withResolvers<void>();
  const giveUp = Promise.withResolvers<"gave up">();
  interrupt.handle((count) => {
    if (count === 1) ended.resolve();
    else giveUp.resolve("gave up");
  });
  await ended.promise;
  await recorded?.set.write(recorded.path);
  output.note(
    `pushing ${formatBytes(mounted.progress().bytesHeld)} to ${store.name}; Ctrl-C once more gives up`,
  );
  const outcome = await Promise.race([end(served), giveUp.promise]);
  clearInterval(timer);
  if (outcome === undefined) {
    output.event({ event: "unmounted" });
    output.note(`all is at ${store.name}`);
    return ExitCode.done;
  }
  const kept =
    plan.cache.kind === "file"
      ? `${plan.cache.path} has it: mount ${store.name} again with this cache`
      : "it was in memory only, and is lost";
  const why = outcome === "gave up" ? "" : `: ${messageOf(outcome)}`;
  output.error(
    outcome instanceof StoreError ? outcome.code : "STORE_UNAVAILABLE",
    `not everything that was written is at ${store.name}${why}; ${kept}`,
  );
  return ExitCode.failed;
}

/** @returns Why it is not all at the store, or `undefined`. */
async function end({ mounted, exports, place, plan }: Served): Promise<unknown> {
  try {
    await place.flush(plan.name);
    await mounted.flush();
    await exports.close();
    await mounted.close();
    return undefined;
  } catch (error) {
    return error ?? new Error("unknown");
  }
}

function planOf(args: Arguments, output: Output): Plan {
  const text = args.required("export", "where are programs to find the region?");
  const spec = parseExport(text);
  if (!isServed(spec)) throw usage(`--export ${text}: a store is shown by fuse, nbd, loop or uffd`);
  const name = args.text("name") ?? "region";
  requireName(name);
  const mode = args.oneOf("mode", ["managed", "direct"], "managed");
  const cacheBytes = args.size("cache-size");
  if (spec.kind === "uffd" && (mode === "direct" || cacheBytes !== undefined)) {
    throw usage(
      "memory that a program holds cannot be taken away from it: uffd is for --mode managed without --cache-size",
    );
  }
  if (mode === "direct" && (args.text("cache") !== undefined || cacheBytes !== undefined)) {
    throw usage("--mode direct keeps nothing: leave out --cache and --cache-size");
  }
  const failAfterMs =
    args.text("fail-after") === "0s" ? 0 : args.duration("fail-after", FAIL_AFTER_DEFAULT_MS);
  return {
    export: spec,
    name,
    readOnly: args.flag("read-only"),
    cache: cacheOf(args.text("cache")),
    settings: {
      chunkBytes: chunkBytesOf(args),
      mode,
      writes: args.flag("write-through") ? "through" : "back",
      ...(cacheBytes === undefined ? {} : { cacheBytes }),
      pull: pullOf(args.text("pull")),
      pushIntervalMs: args.duration("push-interval", PUSH_INTERVAL_DEFAULT_MS),
      failAfterMs: failAfterMs === 0 ? Number.POSITIVE_INFINITY : failAfterMs,
      onHealth: (state) => {
        output.event({ event: "store", ...state });
        output.note(
          state.good
            ? "the store answers again"
            : `warning: the store does not answer (${state.reason ?? ""}); trying again`,
        );
      },
      onPushFailure: (error) => {
        output.event({
          event: "pushFailed",
          code: error instanceof StoreError ? error.code : "STORE_INTERNAL",
          message: messageOf(error),
        });
        output.note(`warning: what was written is not at the store: ${messageOf(error)}`);
      },
    },
  };
}

function cacheOf(text: string | undefined): CachePlace {
  if (text === undefined || text === "memory") return { kind: "memory" };
  const path = /^file:(.+)$/s.exec(text)?.[1];
  if (path !== undefined) return { kind: "file", path };
  throw usage(`--cache ${text} is not understood: write file:PATH or memory`);
}

function chunkBytesOf(args: Arguments): number {
  const bytes = args.size("chunk-size") ?? CHUNK_BYTES_DEFAULT;
  if (bytes >= 4096 && bytes <= 4 << 20 && (bytes & (bytes - 1)) === 0) return bytes;
  throw usage("--chunk-size is a power of two from 4KiB to 4MiB");
}

function pullOf(text: string | undefined): number | "auto" {
  if (text === undefined || text === "auto") return "auto";
  const count = Number(text);
  if (Number.isInteger(count) && count >= 0 && count <= PULL_MAX) return count;
  throw usage(`--pull ${text} is neither auto nor a number from 0 to ${PULL_MAX}`);
}

function showProgress(output: Output, progress: StoreMountProgress): void {
  output.event({ event: "progress", ...progress });
  const ratio = progress.bytesTotal === 0 ? 0 : progress.bytesPresent / progress.bytesTotal;
  const held =
    progress.bytesHeld === 0
      ? "all pushed"
      : `${formatBytes(progress.bytesHeld)} to push, the oldest for ${formatDuration(progress.oldestHeldMs)}`;
  output.status(
    `${(ratio * 100).toFixed(0).padStart(3)} % here  ${formatBytes(progress.bytesPulled)} pulled  ${held}${progress.store.good ? "" : "  store does not answer"}`,
  );
}
