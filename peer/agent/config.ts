/**
 * What an agent may do on its host: a file that the host's operator writes and the relay never sees.
 *
 * The relay picks names from it. A path, a command or an address is only ever taken from here.
 *
 * @module
 */
import { readFile, stat } from "node:fs/promises";
import { isAbsolute } from "node:path";
import { AGENT_NAMES_MAX, isAgentName } from "../../relay/protocol/agent.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { parseSize } from "../cli/size.ts";
import { MigrationError } from "../errors.ts";
import { parseExport } from "../export/spec.ts";

/** Hexadecimal digits of a peer's id that name it for certain: 128 bits. */
const FINGERPRINT_CHARS_MIN = 32;
const CHUNK_BYTES_DEFAULT = 64 * 1024;

export interface OfferedRegion {
  readonly name: string;
  readonly kind: "file" | "disk" | "memory";
  readonly file: string;
  readonly chunkBytes: number;
  /** As `--export` takes it, without the name. */
  readonly export: string | undefined;
}

export interface ReceivingDirectory {
  readonly name: string;
  readonly path: string;
  /** Of one region. */
  readonly bytesMax: number;
  readonly overwrite: boolean;
}

export interface AgentConfig {
  readonly zone: string | undefined;
  /** Who may send to this host or receive from it: all of the project, or ids and their beginnings. */
  readonly peers: "any" | readonly string[];
  readonly regions: ReadonlyMap<string, OfferedRegion>;
  readonly directories: ReadonlyMap<string, ReceivingDirectory>;
  readonly exports: ReadonlyMap<string, string>;
  readonly hooks: ReadonlyMap<string, readonly string[]>;
}

/** Nobody may do anything: what an absent file means. */
const NOTHING: AgentConfig = {
  zone: undefined,
  peers: [],
  regions: new Map(),
  directories: new Map(),
  exports: new Map(),
  hooks: new Map(),
};

export function isAllowedPeer({ peers }: AgentConfig, id: string): boolean {
  return peers === "any" || peers.some((one) => id.startsWith(one));
}

/**
 * @param required The operator named the file: then it must be there.
 * @throws MigrationError `USAGE` with every problem at once
 */
export async function readAgentConfig(file: string, required: boolean): Promise<AgentConfig> {
  let text;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    const absent = cause instanceof Error && "code" in cause && cause.code === "ENOENT";
    if (absent && !required) return NOTHING;
    throw new MigrationError("USAGE", `--config ${file}: ${messageOf(cause)}`, { cause });
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new MigrationError("USAGE", `--config ${file} is not JSON: ${messageOf(cause)}`, {
      cause,
    });
  }
  const problems: string[] = [];
  const config = checked(json, problems);
  for (const { name, file: path } of config.regions.values()) {
    const found = await stat(path).catch(() => undefined);
    if (found !== undefined && !found.isFile()) {
      problems.push(`regions.${name}.file: ${path} is no file; a device cannot be offered`);
    }
  }
  for (const { name, path } of config.directories.values()) {
    const found = await stat(path).catch(() => undefined);
    if (found?.isDirectory() !== true) {
      problems.push(`directories.${name}.path: there is no directory ${path}`);
    }
  }
  if (problems.length > 0) {
    throw new MigrationError("USAGE", `--config ${file}: ${problems.join("; ")}`);
  }
  return config;
}

function checked(json: unknown, problems: string[]): AgentConfig {
  const fields = fieldsOf(json, "the file", problems);
  only(fields, ["zone", "peers", "regions", "directories", "exports", "hooks"], "", problems);
  const zone = fields["zone"];
  if (zone !== undefined && (typeof zone !== "string" || !/^[\w.:-]{1,64}$/.test(zone))) {
    problems.push("zone: a short name is due");
  }
  return {
    zone: typeof zone === "string" ? zone : undefined,
    peers: peersOf(fields["peers"], problems),
    regions: named(fields, "regions", problems, regionOf),
    directories: named(fields, "directories", problems, directoryOf),
    exports: named(fields, "exports", problems, exportOf),
    hooks: named(fields, "hooks", problems, hookOf),
  };
}

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown, where: string, problems: string[]): Fields {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return Object.fromEntries(Object.entries(value));
  }
  problems.push(`${where}: an object is due`);
  return {};
}

function only(fields: Fields, known: readonly string[], where: string, problems: string[]): void {
  for (const name of Object.keys(fields)) {
    if (!known.includes(name)) problems.push(`${where}${name}: there is no such setting`);
  }
}

function named<T>(
  fields: Fields,
  section: string,
  problems: string[],
  one: (name: string, value: unknown, where: string, problems: string[]) => T | undefined,
): Map<string, T> {
  const found = new Map<string, T>();
  if (fields[section] === undefined) return found;
  for (const [name, value] of Object.entries(fieldsOf(fields[section], section, problems))) {
    const where = `${section}.${name}`;
    if (!isAgentName(name)) {
      problems.push(`${where}: a name has letters, digits, dots, dashes and underscores`);
      continue;
    }
    const parsed = one(name, value, where, problems);
    if (parsed !== undefined) found.set(name, parsed);
  }
  if (found.size > AGENT_NAMES_MAX) problems.push(`${section}: at most ${AGENT_NAMES_MAX}`);
  return found;
}

function peersOf(value: unknown, problems: string[]): AgentConfig["peers"] {
  if (value === undefined) return [];
  if (value === "any") return value;
  const pattern = new RegExp(`^[0-9a-f]{${FINGERPRINT_CHARS_MIN},64}$`);
  const list: unknown[] = Array.isArray(value) ? value : [undefined];
  const ids = list.filter((id) => typeof id === "string" && pattern.test(id));
  if (ids.length < list.length) {
    problems.push(
      `peers: "any", or a list of peers' ids or of their first ${FINGERPRINT_CHARS_MIN} digits or more`,
    );
  }
  return ids.map(String);
}

function pathAt(fields: Fields, field: string, where: string, problems: string[]): string {
  const value = fields[field];
  if (typeof value === "string" && isAbsolute(value) && !value.includes("\0")) return value;
  problems.push(`${where}.${field}: an absolute path is due`);
  return "/nonexistent";
}

function regionOf(
  name: string,
  value: unknown,
  where: string,
  problems: string[],
): OfferedRegion | undefined {
  const fields = fieldsOf(value, where, problems);
  only(fields, ["file", "kind", "chunk", "export"], `${where}.`, problems);
  const kind = (["file", "disk", "memory"] as const).find(
    (one) => one === (fields["kind"] ?? "file"),
  );
  if (kind === undefined) problems.push(`${where}.kind: file, disk or memory`);
  const chunkBytes =
    fields["chunk"] === undefined ? CHUNK_BYTES_DEFAULT : parseSize(textOf(fields["chunk"]));
  const isChunk =
    chunkBytes !== undefined &&
    chunkBytes >= 4096 &&
    chunkBytes <= 4 * 1024 * 1024 &&
    (chunkBytes & (chunkBytes - 1)) === 0;
  if (!isChunk) problems.push(`${where}.chunk: a power of two from 4KiB to 4MiB`);
  const shown = fields["export"];
  return {
    name,
    kind: kind ?? "file",
    file: pathAt(fields, "file", where, problems),
    chunkBytes: chunkBytes ?? CHUNK_BYTES_DEFAULT,
    export: shown === undefined ? undefined : exportOf(name, shown, `${where}.export`, problems),
  };
}

function directoryOf(
  name: string,
  value: unknown,
  where: string,
  problems: string[],
): ReceivingDirectory | undefined {
  const fields = fieldsOf(value, where, problems);
  only(fields, ["path", "maxBytes", "overwrite"], `${where}.`, problems);
  const bytesMax = parseSize(textOf(fields["maxBytes"]));
  if (bytesMax === undefined)
    problems.push(`${where}.maxBytes: the size of the largest region is due, such as 20GiB`);
  const overwrite = fields["overwrite"] ?? false;
  if (typeof overwrite !== "boolean") problems.push(`${where}.overwrite: true or false`);
  const path = pathAt(fields, "path", where, problems);
  return { name, path, bytesMax: bytesMax ?? 0, overwrite: overwrite === true };
}

function exportOf(
  _name: string,
  value: unknown,
  where: string,
  problems: string[],
): string | undefined {
  try {
    if (typeof value !== "string") throw new Error("KIND:PLACE is due");
    if (parseExport(value).kind === "file") throw new Error("file: is no export of its own here");
    return value;
  } catch (error) {
    problems.push(`${where}: ${messageOf(error)}`);
    return undefined;
  }
}

function hookOf(
  _name: string,
  value: unknown,
  where: string,
  problems: string[],
): readonly string[] | undefined {
  const words: unknown[] = Array.isArray(value) ? value : [];
  const command = words.filter((word) => typeof word === "string").map(String);
  if (command.length > 0 && command.length === words.length && !command.join("").includes("\0")) {
    return command;
  }
  problems.push(`${where}: a list of words is due: ["systemctl", "stop", "app"]`);
  return undefined;
}

/** Sizes are written as `64KiB`, or as a number of bytes. */
function textOf(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}
