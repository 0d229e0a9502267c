/**
 * Which parts of a region a program asked for, in that order: recorded at one start, pulled first at the next.
 *
 * A file of text: a line that names the format and the length of the region, then a line `OFFSET LENGTH` for each run of
 * bytes, so that it serves mounts with other chunks as well.
 *
 * @module
 */
import { readFile, rename, writeFile } from "node:fs/promises";
import { MigrationError } from "../errors.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import type { ByteRange } from "./pull-order.ts";

const FORMAT = "memferry-working-set-1";
const FILE_BYTES_MAX = 64 << 20;

export class WorkingSet {
  readonly #bytes: number;
  readonly #chunkBytes: number;
  readonly #chunks = new Set<number>();
  #written = 0;

  constructor(bytes: number, chunkBytes: number) {
    this.#bytes = bytes;
    this.#chunkBytes = chunkBytes;
  }

  /** Somebody waited for it. Only the first time counts. */
  note(chunk: number): void {
    this.#chunks.add(chunk);
  }

  /** Replaces the file as a whole, if there is news. @throws MigrationError `STORE_FAILED` */
  async write(path: string): Promise<void> {
    if (this.#written === this.#chunks.size) return;
    const { size } = this.#chunks;
    const lines = [`${FORMAT} ${this.#bytes}`];
    let [from, until] = [0, 0];
    const end = (): void => {
      if (until > from) lines.push(`${from} ${Math.min(until, this.#bytes) - from}`);
    };
    for (const chunk of this.#chunks) {
      const offset = chunk * this.#chunkBytes;
      if (offset !== until) {
        end();
        from = offset;
      }
      until = offset + this.#chunkBytes;
    }
    end();
    try {
      await writeFile(`${path}.new`, `${lines.join("\n")}\n`, { mode: 0o600 });
      await rename(`${path}.new`, path);
    } catch (cause) {
      throw new MigrationError("STORE_FAILED", `--record ${path}: ${messageOf(cause)}`, { cause });
    }
    this.#written = size;
  }
}

/** @throws MigrationError `USAGE`: it cannot be read, or is of a region of another length */
export async function readWorkingSet(path: string, bytes: number): Promise<ByteRange[]> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw new MigrationError("USAGE", `--replay ${path}: ${messageOf(cause)}`, { cause });
  }
  const refuse = (why: string): never => {
    throw new MigrationError("USAGE", `--replay ${path} ${why}: record one with --record`);
  };
  if (text.length > FILE_BYTES_MAX) return refuse("is too long");
  const [head = "", ...lines] = text.trimEnd().split("\n");
  if (head !== `${FORMAT} ${bytes}`) {
    return refuse(
      head.startsWith(`${FORMAT} `)
        ? "is of a region of another length"
        : "is no recorded working set",
    );
  }
  return lines.map((line) => {
    const [, from, length] = /^(\d{1,16}) (\d{1,16})$/.exec(line) ?? refuse("is damaged");
    const range = { from: Number(from), until: Number(from) + Number(length) };
    return range.until <= bytes && range.from < range.until ? range : refuse("is damaged");
  });
}
