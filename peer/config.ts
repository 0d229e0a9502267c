/**
 * The user's memferry configuration: which relays there are, how to know them, and the key for each.
 *
 * `memferry relay` writes it for the user who started it, `memferry login` for anyone else. It holds a key, so
 * its mode is 0600. The only reader of the environment on the peer's side.
 *
 * @module
 */
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { MigrationError } from "./errors.ts";

export interface RelayEntry {
  /** `https://host:port` */
  readonly url: string;
  /** Hexadecimal SHA-256; empty if the system's trust store decides. */
  readonly certificateHashes: readonly string[];
  /** Hexadecimal ed25519 key that vouches for later certificates; absent where the trust store decides. */
  readonly identity?: string;
  readonly key?: string;
}

export interface UserConfig {
  readonly relays: readonly RelayEntry[];
  /** The URL of the relay that is meant when none is named. */
  readonly default?: string;
}

const VERSION = 1;

export interface PeerEnvironment {
  readonly configFile: string;
  /** `MEMFERRY_STATE_DIR`: sessions to go on with. */
  readonly stateDirectory: string;
  /** What a supervisor passes on; `undefined` without one. */
  readonly holdings: string | undefined;
  /** `MEMFERRY_KEY` */
  readonly key: string | undefined;
  /** `MEMFERRY_ENROLL`: an agent's one-use code. */
  readonly enrollment: string | undefined;
  readonly colour: boolean;
}

export function peerEnvironment(
  env: Readonly<Record<string, string | undefined>> = process.env,
): PeerEnvironment {
  const base = env["XDG_CONFIG_HOME"] ?? join(env["HOME"] ?? homedir(), ".config");
  const state = env["XDG_STATE_HOME"] ?? join(env["HOME"] ?? homedir(), ".local", "state");
  return {
    configFile: join(base, "memferry", "config.json"),
    stateDirectory: env["MEMFERRY_STATE_DIR"] ?? join(state, "memferry", "sessions"),
    holdings: env["MEMFERRY_HOLDINGS"],
    key: env["MEMFERRY_KEY"],
    enrollment: env["MEMFERRY_ENROLL"],
    colour: env["NO_COLOR"] === undefined && env["TERM"] !== "dumb",
  };
}

export interface StoreEnvironment {
  /** `REDISCLI_AUTH`, as `redis-cli` has it. */
  readonly redisPassword: string | undefined;
  /** `AWS_REGION`; what else a bucket needs, AWS' own library reads. */
  readonly awsRegion: string | undefined;
}

export function storeEnvironment(
  env: Readonly<Record<string, string | undefined>> = process.env,
): StoreEnvironment {
  return { redisPassword: env["REDISCLI_AUTH"], awsRegion: env["AWS_REGION"] };
}

export interface ProxyEnvironment {
  /** May hold a password. */
  readonly proxy: string | undefined;
  readonly exceptions: string;
}

/** As curl reads them: the lower-case name first. */
export function proxyEnvironment(
  env: Readonly<Record<string, string | undefined>> = process.env,
): ProxyEnvironment {
  return {
    proxy: env["https_proxy"] ?? env["HTTPS_PROXY"],
    exceptions: env["no_proxy"] ?? env["NO_PROXY"] ?? "",
  };
}

/** Where programs are looked for, as `PATH` has it. */
export function searchPath(
  env: Readonly<Record<string, string | undefined>> = process.env,
): string {
  return env["PATH"] ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/** What a hook finds in its environment: ours, and what it is told. */
export function hookEnvironment(
  told: Readonly<Record<string, string>>,
): Readonly<Record<string, string | undefined>> {
  // The API key is no hook's business.
  return { ...process.env, MEMFERRY_KEY: undefined, MEMFERRY_HOLDINGS: undefined, ...told };
}

/** A supervised peer's: ours, and what is held for it. */
export function workerEnvironment(holdings: string): Readonly<Record<string, string | undefined>> {
  return { ...process.env, MEMFERRY_HOLDINGS: holdings };
}

/** An absent file is an empty configuration. @throws MigrationError `USAGE` if it cannot be understood */
export async function readUserConfig(file: string): Promise<UserConfig> {
  let text;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return { relays: [] };
    throw new MigrationError(
      "USAGE",
      `${file} cannot be read: give --relay and --key-file instead`,
      {
        cause,
      },
    );
  }
  try {
    return checkedConfig(JSON.parse(text));
  } catch (cause) {
    throw new MigrationError(
      "USAGE",
      `${file} is damaged: delete it and run \`memferry login URL\` again`,
      { cause },
    );
  }
}

/** Adds or replaces one relay and makes it the default. */
export async function saveRelay(file: string, entry: RelayEntry): Promise<void> {
  const config = await readUserConfig(file);
  const others = config.relays.filter((relay) => relay.url !== entry.url);
  const next = { version: VERSION, relays: [...others, entry], default: entry.url };
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    await writeFile(temporary, `${JSON.stringify(next, null, 2)}\n`, { mode: 0o600 });
    await rename(temporary, file);
  } finally {
    await rm(temporary, { force: true });
  }
}

function checkedConfig(value: unknown): UserConfig {
  if (!isRecord(value) || !Array.isArray(value["relays"])) throw new Error("no list of relays");
  const relays = value["relays"].map((entry: unknown): RelayEntry => {
    if (!isRecord(entry) || typeof entry["url"] !== "string") throw new Error("a relay has no url");
    const hashes: unknown = entry["certificateHashes"] ?? [];
    if (!Array.isArray(hashes) || !hashes.every((hash) => typeof hash === "string")) {
      throw new Error("certificateHashes are not texts");
    }
    const { key, identity } = entry;
    return {
      url: entry["url"],
      certificateHashes: hashes,
      ...(typeof identity === "string" ? { identity } : {}),
      ...(typeof key === "string" ? { key } : {}),
    };
  });
  const preferred = value["default"];
  return typeof preferred === "string" ? { relays, default: preferred } : { relays };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
