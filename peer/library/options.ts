/**
 * Options of the library's calls, looked at: programs without types call it too.
 *
 * @module
 */
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN } from "../../relay/protocol/limits.ts";
import { MigrationError } from "../errors.ts";

const CHUNK_BYTES_DEFAULT = 64 * 1024;
const NAME_BYTES_MAX = 255;

export function usage(message: string): MigrationError {
  return new MigrationError("USAGE", message);
}

export class Options {
  readonly #call: string;
  readonly #given: ReadonlyMap<string, unknown>;

  /** @throws MigrationError `USAGE` for an option that is unknown: it was meant to do something */
  constructor(call: string, given: unknown, known: readonly string[]) {
    this.#call = call;
    if (given !== undefined && (typeof given !== "object" || given === null)) {
      throw usage(`${call}: options are an object, and this is ${describe(given)}`);
    }
    this.#given = new Map(Object.entries(given ?? {}));
    const unknown = [...this.#given.keys()].find((name) => !known.includes(name));
    if (unknown !== undefined) {
      throw usage(`${call}: there is no option ${unknown}: there are ${known.join(", ")}`);
    }
  }

  text(name: string): string | undefined {
    const value = this.#given.get(name);
    if (value === undefined) return undefined;
    if (typeof value !== "string" || value === "") throw this.wrong(name, "a text");
    return value;
  }

  flag(name: string): boolean {
    const value = this.#given.get(name);
    if (value === undefined) return false;
    if (typeof value !== "boolean") throw this.wrong(name, "true or false");
    return value;
  }

  integer(
    name: string,
    { min, max }: { readonly min: number; readonly max: number },
  ): number | undefined {
    const value = this.#given.get(name);
    if (value === undefined) return undefined;
    if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
      throw this.wrong(name, `a whole number from ${min} to ${max}`);
    }
    return value;
  }

  oneOf<T extends string>(name: string, values: readonly T[]): T | undefined {
    const value = this.#given.get(name);
    if (value === undefined) return undefined;
    const found = values.find((candidate) => candidate === value);
    if (found === undefined) throw this.wrong(name, `one of ${values.join(", ")}`);
    return found;
  }

  signal(name = "signal"): AbortSignal | undefined {
    const value = this.#given.get(name);
    if (value === undefined) return undefined;
    if (!(value instanceof AbortSignal)) throw this.wrong(name, "an AbortSignal");
    return value;
  }

  /** @throws MigrationError `USAGE` unless it is a function or absent */
  requireFunction(name: string): void {
    const value = this.#given.get(name);
    if (value !== undefined && typeof value !== "function") throw this.wrong(name, "a function");
  }

  get(name: string): unknown {
    return this.#given.get(name);
  }

  wrong(name: string, wanted: string): MigrationError {
    return usage(
      `${this.#call}: ${name} is to be ${wanted}, and is ${describe(this.#given.get(name))}`,
    );
  }
}

export function chunkBytesOption(given: Options): number {
  const bytes = given.integer("chunkBytes", { min: CHUNK_BYTES_MIN, max: CHUNK_BYTES_MAX });
  if (bytes === undefined) return CHUNK_BYTES_DEFAULT;
  if ((bytes & (bytes - 1)) !== 0) {
    throw given.wrong("chunkBytes", "a power of two from 4096 (4 KiB) to 4194304 (4 MiB)");
  }
  return bytes;
}

/** A region's name becomes a file's. */
export function nameOption(given: Options): string | undefined {
  const name = given.text("name");
  if (name !== undefined && !isRegionName(name)) {
    throw given.wrong("name", "fit to be a file's name, without / = and :");
  }
  return name;
}

export function isRegionName(name: string): boolean {
  const unfit = ["", ".", ".."].includes(name) || /[/\0=:]/.test(name);
  return !unfit && Buffer.byteLength(name) <= NAME_BYTES_MAX;
}

function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 80));
  if (typeof value === "number" || typeof value === "boolean" || value === null) return `${value}`;
  return Array.isArray(value) ? "an array" : `of type ${typeof value}`;
}
