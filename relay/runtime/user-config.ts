/**
 * Tells the commands of the user who runs the relay where it is, so that they need no flags on this host.
 *
 * @module
 */
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

import { systemCode } from "../errors.ts";

const VERSION = 1;

export interface RelayEntry {
  readonly url: string;
  readonly certificateHashes: readonly string[];
  /** Hexadecimal; absent where the system's trust store decides. */
  readonly identity?: string;
  /** Absent to keep the one that is there. */
  readonly key: string | undefined;
}

/**
 * Adds the relay or brings its entry up to date, and makes it the one that is meant when none is named.
 * Other relays' entries stay.
 *
 * @throws Error if the file is there and is not what it should be: it may hold keys, so it is left alone.
 */
export async function saveUserConfig(file: string, entry: RelayEntry): Promise<void> {
  const config = await read(file);
  const relays = config.relays.filter((relay) => relay["url"] !== entry.url);
  const before = config.relays.find((relay) => relay["url"] === entry.url);
  const key = entry.key ?? before?.["key"];
  const { url, certificateHashes, identity } = entry;
  const { identity: _stale, ...kept } = before ?? {};
  relays.push({
    ...kept,
    url,
    certificateHashes,
    ...(identity === undefined ? {} : { identity }),
    ...(key === undefined ? {} : { key }),
  });
  const next = { ...config.rest, version: VERSION, relays, default: url };
  await writeWhole(file, `${JSON.stringify(next, null, 2)}\n`);
}

/** Replaces a file that holds secrets: nobody sees half of it, and nobody else sees any. */
export async function writeWhole(file: string, text: string): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const draft = `${file}.${randomUUID()}`;
  try {
    await writeFile(draft, text, { mode: 0o600, flag: "wx" });
    await rename(draft, file);
  } finally {
    await rm(draft, { force: true });
  }
}

interface UserConfig {
  readonly relays: Record<string, unknown>[];
  readonly rest: Readonly<Record<string, unknown>>;
}

async function read(file: string): Promise<UserConfig> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return { relays: [], rest: {} };
    throw error;
  }
  const json: unknown = JSON.parse(text);
  if (!isRecord(json)) throw new Error("it is not an object");
  const { relays = [] } = json;
  if (!Array.isArray(relays) || !relays.every(isRecord)) throw new Error("`relays` is not a list");
  return { relays: [...relays], rest: json };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
