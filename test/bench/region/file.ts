/** Finding writes by hashes, as `--export file:` does, against the marks of the FUSE file; and what a delta sends. */
import { execFile, execFileSync, spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { promisify } from "node:util";
import { loadNative, type NativeRegion } from "../../../native/index.ts";
import { ScannedWrites } from "../../../peer/export/scanned-writes.ts";
import { number, Stage } from "../../e2e/harness.ts";
import { SeededRandom } from "../../support/seeded-random.ts";
import { compare, type Line } from "./compare.ts";

const MIB = 1024;
const BYTES = MIB << 20;
const CHUNK = 64 << 10;
const PAGE = 4096;
const SHARES = [0.001, 0.01, 0.1];
const POKE = "test/peer/export/support/poke.c";
const run = promisify(execFile);

export async function benchFile(
  folder: string,
  rounds: number,
  onLine: (line: Line) => void,
): Promise<void> {
  // In memory, so that it is the hashing that is measured and no disk.
  const memory = mkdtempSync("/dev/shm/memferry-bench-");
  await using closing = new AsyncDisposableStack();
  closing.defer(() => rmSync(memory, { recursive: true }));
  const [file, mounted, poke] = [
    join(memory, "data"),
    join(folder, "looked"),
    join(folder, "poke"),
  ];
  mkdirSync(mounted);
  execFileSync("cc", ["-O1", "-o", poke, POKE]);
  await fill(file);
  const server = closing.use(
    new Lines(process.execPath, [`${import.meta.dirname}/look-server.ts`, `${MIB}`, mounted]),
  );
  await server.next();
  const scan = closing.use(await Scan.open(file, 2));
  const random = new SeededRandom(1);
  const here = closing.use(new Lines(poke, [file]));
  const there = closing.use(new Lines(poke, [join(mounted, "region")]));
  let round = 0;
  for (const share of SHARES) {
    const name = `file look at ${MIB} MiB, ${share * 100} % dirty`;
    let [found, written] = [0, 0];
    const pages = (): number[] =>
      Array.from({ length: Math.round((BYTES / PAGE) * share) }, () => random.below(BYTES / PAGE));
    onLine(
      await compare(
        {
          name,
          unit: "looks/s",
          against: "FUSE flush and takeDirty",
          atLeast: 0,
          async ours() {
            const touched = pages();
            await store(here, touched, ++round);
            written += new Set(touched.map((page) => Math.floor((page * PAGE) / CHUNK))).size;
            const { ms, chunks } = await scan.look();
            found += chunks;
            return 1000 / ms;
          },
          async theirs() {
            await store(there, pages(), ++round);
            server.say("look");
            return 1000 / (JSON.parse(await server.next()) as { ms: number }).ms;
          },
        },
        rounds,
      ),
    );
    onLine({
      name: `${name}: chunks found`,
      unit: "chunks",
      against: "written",
      atLeast: 1,
      ours: found,
      theirs: written,
      ratio: found / written,
    });
  }
  for (const threads of [1, 2]) {
    await using own = await Scan.open(file, threads);
    onLine(
      await compare(
        {
          name: `file look, ${threads} ${threads === 1 ? "thread" : "threads"}`,
          unit: "MB/s",
          against: "sha256sum",
          atLeast: 1,
          ours: async () => BYTES / 1e3 / (await own.look()).ms,
          theirs: async () => {
            const begin = performance.now();
            await run("sha256sum", [file]);
            return BYTES / 1e3 / (performance.now() - begin);
          },
        },
        rounds,
      ),
    );
  }
  await delta(memory, file, random, onLine);
}

/** A file of which 1 % of the chunks differ at the destination. */
async function delta(
  memory: string,
  file: string,
  random: SeededRandom,
  onLine: (line: Line) => void,
): Promise<void> {
  const copy = join(memory, "copy");
  copyFileSync(file, copy);
  const differing = Math.round((BYTES / CHUNK) * 0.01);
  const chunks = new Set<number>();
  while (chunks.size < differing) chunks.add(random.below(BYTES / CHUNK));
  const handle = await open(copy, "r+");
  for (const chunk of chunks) await handle.write("differs", chunk * CHUNK);
  await handle.close();
  await using stage = await Stage.open();
  await stage.relay();
  const { seeder, ticket } = await stage.seed(["--export", `file:${file}`]);
  const leecher = stage.leech(ticket, ["--export", `file:${copy}`]);
  await leecher.expectExit(0);
  await seeder.expectExit(0);
  const wire = number(leecher.last("done"), "bytesWire");
  onLine({
    name: "file delta, 1 % of the chunks differ",
    unit: "KiB",
    against: "those chunks",
    atLeast: 0,
    ours: wire / 1024,
    theirs: (differing * CHUNK) / 1024,
    ratio: (differing * CHUNK) / wire,
  });
}

/** The source's side of `--export file:`. */
class Scan implements AsyncDisposable {
  readonly #region: NativeRegion;
  readonly #writes: ScannedWrites;
  #sent = new Uint8Array(0);

  private constructor(region: NativeRegion, writes: ScannedWrites) {
    this.#region = region;
    this.#writes = writes;
  }

  static async open(file: string, threads: number): Promise<Scan> {
    const region = loadNative().openRegion({
      store: { kind: "file", path: file, create: false, reserve: false, readOnly: true },
      bytes: BYTES,
      chunkBytes: CHUNK,
      hashKey: new Uint8Array(32),
      present: "all",
      gate: "open",
      threads,
    });
    const scan = new Scan(region, await ScannedWrites.open(region, file));
    await scan.#send();
    return scan;
  }

  async look(): Promise<{ ms: number; chunks: number }> {
    const begin = performance.now();
    const bitmap = await this.#writes.collect((index) =>
      this.#sent.subarray(index * 32, index * 32 + 32),
    );
    const ms = performance.now() - begin;
    let chunks = 0;
    for (const byte of bitmap) for (let bits = byte; bits > 0; bits &= bits - 1) chunks++;
    await this.#send();
    return { ms, chunks };
  }

  async #send(): Promise<void> {
    const all = Uint32Array.from({ length: this.#region.chunkCount }, (_, index) => index);
    this.#sent = Uint8Array.from((await this.#region.hash(all)).hashes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writes.close();
    await this.#region.close();
  }
}

/** A program that answers in lines, and ends with its input. */
class Lines implements AsyncDisposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #interface: Interface;
  readonly #lines: AsyncIterator<string>;

  constructor(program: string, args: readonly string[]) {
    this.#child = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#interface = createInterface({ input: this.#child.stdout });
    this.#lines = this.#interface[Symbol.asyncIterator]();
  }

  say(text: string): void {
    this.#child.stdin.write(`${text}\n`);
  }

  async next(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error(`${this.#child.spawnfile} ended`);
    return value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = once(this.#child, "exit");
    this.#child.stdin.end();
    await gone;
    this.#interface.close();
  }
}

async function store(program: Lines, pages: readonly number[], round: number): Promise<void> {
  program.say(pages.map((page) => `${page * PAGE} ${round}`).join("\n"));
  for (let answered = 0; answered < pages.length; answered++) await program.next();
}

/** Each page begins with a byte that no round stores: a store of what is there already is none. */
async function fill(file: string): Promise<void> {
  const random = new SeededRandom(2);
  const handle = await open(file, "w");
  for (let at = 0; at < BYTES; at += 1 << 20) {
    const bytes = random.bytes(1 << 20);
    for (let page = 0; page < bytes.length; page += PAGE) bytes[page] = 0;
    await handle.write(bytes);
  }
  await handle.close();
}
