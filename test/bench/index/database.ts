/**
 * The index by itself: loading, appending, reading, folding, the map.
 *
 * Each is measured by the calls that the relay makes, on one connection, one call after the other, as one session's
 * reports come. What the machine does at most is a COPY of the same bytes from a file into such a table, and a COPY of
 * the table out of it, both by the server itself.
 *
 * @module
 */
import { createWriteStream, readFileSync, rmSync } from "node:fs";
import { once } from "node:events";
import { finished } from "node:stream/promises";

import pg from "pg";

import { createApiKeys } from "../../../relay/db/api-keys.ts";
import { openDatabase } from "../../../relay/db/database.ts";
import { fromHex } from "../../../relay/db/hex.ts";
import { createSessionStore, type DatabaseSessionStore } from "../../../relay/db/session-store.ts";
import { INDEX_SEGMENTS_PER_STATEMENT } from "../../../relay/db/limits.ts";
import { projectSessions } from "../../../relay/db/sessions.ts";
import { HASH_BYTES, INDEX_DELTA_ENTRY_BYTES } from "../../../relay/protocol/frame.ts";
import { INDEX_DELTA_ENTRIES_MAX, INDEX_SEGMENT_CHUNKS } from "../../../relay/protocol/limits.ts";
import type { TestPostgres } from "../../support/postgres.ts";
import type { Figure } from "./figure.ts";

export const DATABASE_SECTIONS = ["load", "append", "read", "fold", "map"] as const;

/** Of a region's chunks, dirtied at random. */
const APPEND_SHARE = 0.1;
const MAP_BUCKETS = 4096;

export interface DatabaseBench {
  readonly server: TestPostgres;
  readonly chunkCount: number;
  readonly rounds: number;
  readonly wanted: readonly string[];
  readonly onFigure: (figure: Figure) => void;
}

interface Taken {
  readonly seconds: number;
  readonly ours: number;
  readonly server: number;
}

export async function benchDatabase(bench: DatabaseBench): Promise<void> {
  const { server, chunkCount, rounds, wanted, onFigure } = bench;
  const url = await server.createDatabase();
  await using database = await openDatabase({ url });
  const store = createSessionStore(database);
  const sessions = projectSessions(database, await createApiKeys(database).project("bench"));
  const raw = new pg.Client({ connectionString: url, query_timeout: 600_000 });
  raw.on("error", () => {});
  await raw.connect();
  await using _end = { [Symbol.asyncDispose]: () => raw.end() };
  const segments = Math.ceil(chunkCount / INDEX_SEGMENT_CHUNKS);
  const hashes = noise(INDEX_SEGMENT_CHUNKS * HASH_BYTES * 2);
  const deltas = randomDeltas(Math.floor(chunkCount * APPEND_SHARE), chunkCount);

  const measure = async (work: () => Promise<void>): Promise<Taken> => {
    const [serverBefore, cpuBefore, start] = [
      cpuOf(server.pid),
      process.cpuUsage(),
      performance.now(),
    ];
    await work();
    const seconds = (performance.now() - start) / 1000;
    const { user, system } = process.cpuUsage(cpuBefore);
    return { seconds, ours: (user + system) / 1e6, server: cpuOf(server.pid) - serverBefore };
  };
  const rate = (
    name: string,
    count: number,
    taken: Taken[],
    goal: number | undefined,
    limit?: { what: string; taken: Taken[] },
  ): void => {
    const { seconds, ours, server: serverS } = median(taken);
    onFigure({
      name,
      unit: "/s",
      value: count / seconds,
      ...(goal === undefined ? {} : { goal: { atLeast: goal } }),
      cpuS: { ours, server: serverS },
      ...(limit === undefined
        ? {}
        : { limit: { what: limit.what, value: count / median(limit.taken).seconds } }),
    });
  };

  const times: Record<string, Taken[]> = {};
  const take = (name: string, taken: Taken): void => void (times[name] ??= []).push(taken);
  const bytesPerChunk = { loaded: 0, folded: 0 };
  for (let round = 0; round < rounds; round++) {
    const sessionId = await newSession(sessions, store, chunkCount);
    take("load", await measure(() => load(store, sessionId, chunkCount, hashes)));
    bytesPerChunk.loaded = (await sizeOf(raw, "region_segment")) / chunkCount;
    if (wanted.includes("load")) {
      const file = `/tmp/memferry-bench-${process.pid}.copy`;
      try {
        await writeCopyFile(file, segments, chunkCount, hashes);
        await raw.query("create table copied (like region_segment including all)");
        take(
          "copy",
          await measure(() =>
            done(
              raw.query(
                `copy copied (region_id, gen, segment, epoch, hashes, epochs) from '${file}' (format binary)`,
              ),
            ),
          ),
        );
        await raw.query("drop table copied");
      } finally {
        rmSync(file, { force: true });
      }
    }
    if (wanted.includes("read"))
      await readAll(store, sessionId, chunkCount, round, take, measure, raw);
    if (wanted.includes("append") || wanted.includes("fold") || wanted.includes("map")) {
      // Folds are measured apart.
      const quiet = createSessionStore(database, { foldsByItself: false });
      take("append", await measure(() => appendAll(quiet, sessionId, deltas)));
      if (wanted.includes("map")) {
        take(
          "map",
          await measure(() => done(store.index.map(sessionId, { buckets: MAP_BUCKETS }))),
        );
      }
      take("readDirty", await measure(() => count(store, sessionId, chunkCount)));
      if (wanted.includes("fold")) {
        take("fold", await measure(() => done(store.index.fold(sessionId))));
        await raw.query("vacuum region_segment, region_delta");
        bytesPerChunk.folded = (await sizeOf(raw, "region_segment")) / chunkCount;
        if (wanted.includes("map")) {
          take(
            "mapFolded",
            await measure(() => done(store.index.map(sessionId, { buckets: MAP_BUCKETS }))),
          );
        }
      }
    }
    await raw.query("truncate region_segment, region_delta");
    await raw.query("checkpoint");
  }

  const of = (name: string): Taken[] => times[name] ?? [];
  const million = 1_000_000;
  if (wanted.includes("load")) {
    rate("load, chunks", chunkCount, of("load"), million, { what: "raw COPY", taken: of("copy") });
    onFigure({
      name: "on disk once loaded, a chunk",
      unit: "bytes",
      value: bytesPerChunk.loaded,
      goal: { atMost: 45 },
      limit: { what: "a hash alone", value: HASH_BYTES },
    });
  }
  if (wanted.includes("append")) {
    rate("random dirty appends, one connection", deltas.count, of("append"), 200_000);
  }
  if (wanted.includes("read")) {
    rate("whole region read, chunks", chunkCount, of("read"), 5 * million, {
      what: "raw COPY out",
      taken: of("copyOut"),
    });
  }
  if (of("readDirty").length > 0) {
    rate("whole region read with 10 % in deltas", chunkCount, of("readDirty"), undefined);
  }
  if (wanted.includes("fold")) {
    rate("fold of 10 % random deltas, chunks", chunkCount, of("fold"), undefined);
    onFigure({
      name: "on disk with two generations, a chunk",
      unit: "bytes",
      value: bytesPerChunk.folded,
    });
  }
  if (wanted.includes("map")) {
    const seconds = (name: string, taken: Taken[]): void =>
      onFigure({
        name,
        unit: "s",
        value: median(taken).seconds,
        goal: { atMost: 1 },
        cpuS: { ours: median(taken).ours, server: median(taken).server },
      });
    seconds(`map to ${MAP_BUCKETS} buckets with 10 % in deltas`, of("map"));
    if (of("mapFolded").length > 0)
      seconds(`map to ${MAP_BUCKETS} buckets, folded`, of("mapFolded"));
  }
}

async function readAll(
  store: DatabaseSessionStore,
  sessionId: Uint8Array,
  chunkCount: number,
  round: number,
  take: (name: string, taken: Taken) => void,
  measure: (work: () => Promise<void>) => Promise<Taken>,
  raw: pg.Client,
): Promise<void> {
  const copyOut = async (): Promise<void> =>
    take(
      "copyOut",
      await measure(() =>
        done(raw.query("copy region_segment to program 'cat > /dev/null' (format binary)")),
      ),
    );
  // In turns first, or the one that is second is favoured by warm caches.
  if (round % 2 === 1) await copyOut();
  take("read", await measure(() => count(store, sessionId, chunkCount)));
  if (round % 2 === 0) await copyOut();
}

async function newSession(
  sessions: ReturnType<typeof projectSessions>,
  store: DatabaseSessionStore,
  chunkCount: number,
): Promise<Uint8Array> {
  const { row } = await sessions.create({
    name: "bench",
    labels: {},
    mode: "live",
    limits: {},
    ticketLifetimeMs: 600_000,
    createdBy: "bench",
  });
  const id = fromHex(row.id);
  await store.describe(id, "seeder", {
    kind: "describe",
    regionName: "bench",
    regionBytes: chunkCount * 65_536,
    chunkBytes: 65_536,
    host: "a",
    version: "1",
  });
  return id;
}

async function load(
  store: DatabaseSessionStore,
  sessionId: Uint8Array,
  chunkCount: number,
  hashes: Uint8Array,
): Promise<void> {
  const segments = Math.ceil(chunkCount / INDEX_SEGMENT_CHUNKS);
  // As a lane of reports gives them on when the database is slower than they come.
  for (let from = 0; from < segments; from += INDEX_SEGMENTS_PER_STATEMENT) {
    const count = Math.min(INDEX_SEGMENTS_PER_STATEMENT, segments - from);
    await Promise.all(
      Array.from({ length: count }, (_, at) =>
        store.index.putSegment(
          sessionId,
          1,
          from + at,
          segmentHashes(from + at, chunkCount, hashes),
        ),
      ),
    );
  }
}

function segmentHashes(segment: number, chunkCount: number, hashes: Uint8Array): Uint8Array {
  const chunks = Math.min(INDEX_SEGMENT_CHUNKS, chunkCount - segment * INDEX_SEGMENT_CHUNKS);
  const from = (segment % INDEX_SEGMENT_CHUNKS) * HASH_BYTES;
  return hashes.subarray(from, from + chunks * HASH_BYTES);
}

interface RandomDeltas {
  readonly count: number;
  readonly batches: readonly Uint8Array[];
}

function randomDeltas(count: number, chunkCount: number): RandomDeltas {
  const batches: Uint8Array[] = [];
  const content = noise(INDEX_DELTA_ENTRIES_MAX * INDEX_DELTA_ENTRY_BYTES);
  for (let from = 0; from < count; from += INDEX_DELTA_ENTRIES_MAX) {
    const entries = Math.min(INDEX_DELTA_ENTRIES_MAX, count - from);
    const bytes = content.slice(0, entries * INDEX_DELTA_ENTRY_BYTES);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at < entries; at++) {
      view.setUint32(at * INDEX_DELTA_ENTRY_BYTES, Math.floor(Math.random() * chunkCount), true);
      view.setUint32(at * INDEX_DELTA_ENTRY_BYTES + 4, 2, true);
    }
    batches.push(bytes);
  }
  return { count, batches };
}

async function appendAll(
  store: DatabaseSessionStore,
  sessionId: Uint8Array,
  deltas: RandomDeltas,
): Promise<void> {
  for (const entries of deltas.batches) await store.index.appendDelta(sessionId, entries);
}

async function count(
  store: DatabaseSessionStore,
  sessionId: Uint8Array,
  chunkCount: number,
): Promise<void> {
  let bytes = 0;
  for await (const part of store.index.stream(sessionId)) bytes += part.length;
  if (bytes !== chunkCount * HASH_BYTES) throw new Error(`read ${bytes} bytes`);
}

/** What `COPY ... FROM` takes in its binary format. */
async function writeCopyFile(
  file: string,
  segments: number,
  chunkCount: number,
  hashes: Uint8Array,
): Promise<void> {
  const out = createWriteStream(file, { mode: 0o644 });
  out.write(Buffer.from("PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0", "latin1"));
  for (let segment = 0; segment < segments; segment++) {
    const part = segmentHashes(segment, chunkCount, hashes);
    const head = Buffer.alloc(2 + 12 + 12 + 8 + 12 + 4);
    let at = head.writeInt16BE(6, 0);
    for (const value of [1, 0]) {
      at = head.writeInt32BE(8, at);
      at = head.writeBigInt64BE(BigInt(value), at);
    }
    at = head.writeInt32BE(4, at);
    at = head.writeInt32BE(segment, at);
    at = head.writeInt32BE(8, at);
    at = head.writeBigInt64BE(1n, at);
    head.writeInt32BE(part.length, at);
    out.write(head);
    out.write(part);
    if (!out.write(Buffer.from([0xff, 0xff, 0xff, 0xff]))) {
      await once(out, "drain");
    }
  }
  out.end(Buffer.from([0xff, 0xff]));
  await finished(out);
}

async function sizeOf(raw: pg.Client, table: string): Promise<number> {
  const { rows } = await raw.query<{ bytes: string }>(
    "select pg_total_relation_size($1::regclass) as bytes",
    [table],
  );
  return Number(rows[0]?.bytes);
}

async function done(work: Promise<unknown>): Promise<void> {
  await work;
}

function median(taken: readonly Taken[]): Taken {
  const sorted = taken.toSorted((a, b) => a.seconds - b.seconds);
  const middle = sorted[Math.floor((sorted.length - 1) / 2)];
  if (middle === undefined) throw new Error("nothing was measured");
  return middle;
}

/** Bytes that no compression helps with. */
function noise(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let from = 0; from < length; from += 65_536) {
    crypto.getRandomValues(bytes.subarray(from, from + 65_536));
  }
  return bytes;
}

const TICKS_PER_SECOND = 100;

/** Seconds of a process and of its children, those that have ended included. */
export function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
  const ticks = [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at]), 0);
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").split(" ");
  return children
    .filter((child) => child !== "")
    .reduce((sum, child) => sum + cpuOf(Number(child)), ticks / TICKS_PER_SECOND);
}
