/**
 * What the relay was told: flags over environment over file over defaults. The only reader of the environment.
 *
 * @module
 */
import type { Retention } from "./db/retention.ts";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

import { DEFAULTS } from "./config/defaults.ts";
import { readOptions, type Given, type OptionName } from "./config/options.ts";
import { systemCode } from "./errors.ts";
import { readLimit, type LimitName, type RelayLimits } from "./limits.ts";
import { LOG_LEVELS, type LogLevel } from "./log.ts";
import { messageOf } from "./protocol/errors.ts";
import { parseAddressRange, type AddressRange } from "./runtime/address-range.ts";

export { HELP } from "./config/help.ts";

export interface Address {
  /** Without brackets; empty for every address of this host. */
  readonly host: string;
  /** 0 for any that is free. */
  readonly port: number;
}

export interface RelayConfig {
  readonly listen: Address;
  /** Plain HTTP on loopback; undefined if it is off. */
  readonly dashboard: Address | undefined;
  readonly dataDir: string;
  /** PostgreSQL instead of PGlite. */
  readonly databaseUrl: string | undefined;
  /** How peers reach the relay, if not at `listen`. An origin. */
  readonly publicUrl: string | undefined;
  /** The operator's certificate; undefined for one that the relay makes and peers pin. */
  readonly certificate:
    | { readonly certificatePath: string; readonly privateKeyPath: string }
    | undefined;
  /** A certificate that an authority issues and renews; never together with `certificate`. */
  readonly acme: AcmeConfig | undefined;
  /** The operator's key for what is sealed in the database; undefined for one in the data directory. */
  readonly secretKeyFile: string | undefined;
  /** Shown in the list of relays. */
  readonly name: string;
  readonly zone: string;
  /** How long a relay that goes down lets data in flight arrive. */
  readonly drainWaitMs: number;
  readonly retention: Retention;
  readonly webhooks: WebhookConfig;
  /** What was set of docs/limits.md. */
  readonly limits: Partial<RelayLimits>;
  readonly webTransport: boolean;
  /** UDP ports for address discovery, 0 for any that is free; undefined if it is off. */
  readonly discoveryPorts: readonly [number, number] | undefined;
  readonly logLevel: LogLevel;
  /** The ready line, and the log, for machines. */
  readonly json: boolean;
  /** Where to tell the commands of this user about the relay; undefined not to. */
  readonly userConfigFile: string | undefined;
}

export interface AcmeConfig {
  /** Names, in lower case; at least one. */
  readonly domains: readonly string[];
  readonly email: string | undefined;
  readonly directoryUrl: string;
  /** Certificates that the authority's API is trusted by; undefined for the system's. */
  readonly caFile: string | undefined;
  /** Plain HTTP, where the authority asks for the proof. */
  readonly challenge: Address;
}

export interface WebhookConfig {
  /** Addresses that are not public and may be called all the same. */
  readonly allow: readonly AddressRange[];
  /** Without TLS. */
  readonly http: boolean;
}

/** How the relay was called. */
export type ConfigOutcome =
  | { readonly kind: "config"; readonly config: RelayConfig }
  | { readonly kind: "help" }
  /** One line each, with the cure. */
  | { readonly kind: "problems"; readonly problems: readonly string[] }
  /** What was wrong so far, and the rest, for it to be looked at as well. */
  | {
      readonly kind: "check";
      readonly problems: readonly string[];
      readonly config: RelayConfig;
    };

const DRAIN_WAIT_S_MAX = 3_600;
const TEXT_CHARS_MAX = 64;
/** As in the HTTP request for a certificate: no wildcards, which another kind of proof would be due for. */
const DOMAIN =
  /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

export function readConfig(
  args: readonly string[] = process.argv.slice(2),
  env: Readonly<Record<string, string | undefined>> = process.env,
): ConfigOutcome {
  const problems: string[] = [];
  const options = readOptions(args, env, problems);
  if (options.has("help")) return { kind: "help" };
  const given = (option: OptionName): Given | undefined => options.get(option);

  const address = (flag: OptionName, fallback: string): Address => {
    const { value, name } = given(flag) ?? { value: fallback, name: `--${flag}` };
    const parsed = parseAddress(value);
    if (parsed !== undefined) return parsed;
    problems.push(`${name}: "${value}" is not HOST:PORT: write e.g. ${fallback} or [::1]:8443`);
    return { host: "", port: 0 };
  };

  const listen = address("listen", DEFAULTS.listen);
  let dashboard: Address | undefined;
  if (given("dashboard")?.value !== "off") {
    const known = problems.length;
    dashboard = address("dashboard", DEFAULTS.dashboard);
    if (problems.length === known && !isLoopback(dashboard.host)) {
      problems.push(
        `${given("dashboard")?.name ?? "--dashboard"}: "${dashboard.host}" is not a loopback address, and this port has no TLS: use 127.0.0.1, or the console at --listen`,
      );
    }
    if (dashboard.port !== 0 && dashboard.port === listen.port && overlap(dashboard, listen)) {
      problems.push(
        `--dashboard: port ${dashboard.port} is --listen's as well: give one of them another`,
      );
    }
  }

  const discovery = given("discovery-ports");
  const discoveryPorts =
    discovery === undefined ? portsAfter(listen.port) : parsePorts(discovery.value);
  if (discoveryPorts === null) {
    problems.push(
      `${discovery?.name ?? "--discovery-ports"}: "${discovery?.value ?? ""}" is not two different ports: write e.g. 8444,8445, or none`,
    );
  }

  const database = given("database-url") ?? databaseUrlOf(given("database-url-file"), problems);
  if (database !== undefined && !isUrl(database.value, ["postgres:", "postgresql:"])) {
    // Without its value: it may hold a password.
    problems.push(
      `${database.name}: this is not a URL of PostgreSQL: write postgres://USER@HOST/NAME`,
    );
  }

  const publicUrl = given("public-url");
  let origin: string | undefined;
  if (publicUrl !== undefined) {
    origin = originOf(publicUrl.value);
    if (origin === undefined) {
      problems.push(
        `${publicUrl.name}: "${publicUrl.value}" is not the address of a relay: write https://HOST[:PORT], no path`,
      );
    }
  }

  const certificatePath = given("certificate")?.value;
  const privateKeyPath = given("private-key")?.value;
  if ((certificatePath === undefined) !== (privateKeyPath === undefined)) {
    problems.push(
      certificatePath === undefined
        ? "--private-key: its certificate is missing: give --certificate as well"
        : "--certificate: its private key is missing: give --private-key as well",
    );
  }

  const acme = acmeOf(given, address, problems);
  if (acme !== undefined && certificatePath !== undefined) {
    problems.push("--acme-domains: there is a --certificate as well: leave one of the two out");
  }
  const challengePort = acme?.challenge.port ?? 0;
  if (challengePort !== 0 && challengePort === listen.port) {
    problems.push(
      `--acme-challenge: port ${challengePort} is --listen's as well: give one of them another`,
    );
  }

  const drainWait = given("drain-wait");
  const drainWaitS = Number(drainWait?.value ?? DEFAULTS.drainWaitS);
  if (!/^\d{1,5}$/.test(drainWait?.value ?? "0") || drainWaitS > DRAIN_WAIT_S_MAX) {
    problems.push(
      `${drainWait?.name ?? "--drain-wait"}: "${drainWait?.value ?? ""}" is not a time: write whole seconds up to ${DRAIN_WAIT_S_MAX}`,
    );
  }
  const days = (option: "retention" | "audit-retention", fallback: number): number => {
    const { value, name } = given(option) ?? { value: String(fallback), name: "" };
    if (/^\d{1,5}$/.test(value)) return value === "0" ? Number.POSITIVE_INFINITY : Number(value);
    problems.push(`${name}: "${value}" is not a time: write whole days, or 0 for ever`);
    return fallback;
  };
  const retention = {
    days: days("retention", DEFAULTS.retentionDays),
    auditDays: days("audit-retention", DEFAULTS.auditRetentionDays),
  };
  const shown = (option: "name" | "zone"): string => {
    const text = given(option);
    if (text === undefined || isShortText(text.value)) return text?.value ?? "";
    problems.push(`${text.name}: write at most ${TEXT_CHARS_MAX} characters, all of them visible`);
    return "";
  };
  const [name, zone] = [shown("name"), shown("zone")];

  const allow: AddressRange[] = [];
  const ranges = given("webhook-allow");
  for (const text of listOf(ranges)) {
    const range = parseAddressRange(text);
    if (range !== undefined) allow.push(range);
    else {
      problems.push(
        `${ranges?.name ?? ""}: "${text}" is no range of addresses: write e.g. 10.0.0.0/8 or fd00::/8`,
      );
    }
  }

  const limits = limitsOf(given("limits"), problems);

  const level = given("log-level") ?? { value: "info", name: "--log-level" };
  const logLevel = LOG_LEVELS.find((known) => known === level.value);
  if (logLevel === undefined) {
    problems.push(
      `${level.name}: "${level.value}" is not a level: choose one of ${LOG_LEVELS.join(", ")}`,
    );
  }

  const home = env["HOME"] ?? homedir();
  const state = absolute(env["XDG_STATE_HOME"]) ?? join(home, ".local", "state");
  const configHome = absolute(env["XDG_CONFIG_HOME"]) ?? join(home, ".config");

  const secretKeyFile = given("secret-key-file")?.value;
  const config: RelayConfig = Object.freeze({
    listen,
    dashboard,
    dataDir: resolve(given("data")?.value ?? join(state, "memferry", "relay")),
    databaseUrl: database?.value,
    publicUrl: origin,
    certificate:
      certificatePath === undefined || privateKeyPath === undefined
        ? undefined
        : { certificatePath: resolve(certificatePath), privateKeyPath: resolve(privateKeyPath) },
    acme,
    secretKeyFile: secretKeyFile === undefined ? undefined : resolve(secretKeyFile),
    name,
    zone,
    drainWaitMs: drainWaitS * 1000,
    retention,
    webhooks: { allow, http: options.has("webhook-http") },
    limits,
    discoveryPorts: discoveryPorts ?? undefined,
    webTransport: !options.has("no-webtransport"),
    logLevel: logLevel ?? "info",
    json: options.has("json"),
    userConfigFile: options.has("no-user-config")
      ? undefined
      : join(configHome, "memferry", "config.json"),
  });
  if (options.has("check-config")) return { kind: "check", problems, config };
  return problems.length > 0 ? { kind: "problems", problems } : { kind: "config", config };
}

/** The URL in a file, without the line break at its end. */
function databaseUrlOf(file: Given | undefined, problems: string[]): Given | undefined {
  if (file === undefined) return undefined;
  try {
    const value = readFileSync(file.value, "utf8").trim();
    if (value !== "") return { value, name: file.name };
    problems.push(`${file.name}: ${file.value} is empty: write the URL of the database into it`);
  } catch (error) {
    problems.push(cannotRead(file, error));
  }
  return undefined;
}

function cannotRead(file: Given, error: unknown): string {
  return `${file.name}: ${file.value} cannot be read (${systemCode(error) ?? messageOf(error)}): give a file that this user may read`;
}

function acmeOf(
  given: (option: OptionName) => Given | undefined,
  address: (option: OptionName, fallback: string) => Address,
  problems: string[],
): AcmeConfig | undefined {
  const names = given("acme-domains");
  if (names === undefined) {
    for (const option of [
      "acme-email",
      "acme-directory",
      "acme-ca-file",
      "acme-challenge",
    ] as const) {
      const said = given(option);
      if (said !== undefined) {
        problems.push(`${said.name}: it is nothing without --acme-domains: give that as well`);
      }
    }
    return undefined;
  }
  const domains = listOf(names).map((domain) => domain.toLowerCase());
  for (const domain of domains) {
    if (DOMAIN.test(domain) && !/^[\d.]+$/.test(domain)) continue;
    problems.push(
      `${names.name}: "${domain}" is no name that a certificate can be issued for: write e.g. relay.example.org`,
    );
  }
  if (given("acme-agree-terms") === undefined) {
    problems.push(
      "--acme-agree-terms: no certificate is issued without it: read the authority's terms, and give it if you agree",
    );
  }
  const directory = given("acme-directory");
  const directoryUrl =
    directory?.value === "staging"
      ? DEFAULTS.acmeStagingDirectory
      : (directory?.value ?? DEFAULTS.acmeDirectory);
  if (!isUrl(directoryUrl, ["https:"])) {
    problems.push(
      `${directory?.name ?? ""}: "${directoryUrl}" is no authority: write https://HOST/PATH, or staging`,
    );
  }
  const caFile = given("acme-ca-file")?.value;
  return {
    domains,
    email: given("acme-email")?.value,
    directoryUrl,
    caFile: caFile === undefined ? undefined : resolve(caFile),
    challenge: address("acme-challenge", DEFAULTS.acmeChallenge),
  };
}

function limitsOf(given: Given | undefined, problems: string[]): Partial<RelayLimits> {
  const limits: Partial<Record<LimitName, number>> = {};
  for (const setting of listOf(given)) {
    const [, name = setting, value] = /^([^=]*)=(.*)$/.exec(setting) ?? [];
    const limit = readLimit(name.trim(), value);
    if (typeof limit === "string") problems.push(`${given?.name ?? ""}: ${limit}`);
    else limits[limit.name] = limit.value;
  }
  return limits;
}

/** The parts between commas. */
function listOf(given: Given | undefined): string[] {
  return given === undefined ? [] : given.value.split(",").map((part) => part.trim());
}

function isShortText(text: string): boolean {
  return text.length <= TEXT_CHARS_MAX && /^[\p{L}\p{N}\p{P}\p{S} ]*$/u.test(text);
}

/** `HOST:PORT`, `[IPV6]:PORT` or `:PORT`. */
export function parseAddress(text: string): Address | undefined {
  const [, ipv6, name, digits] =
    /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):(\d{1,5})$/.exec(text) ?? [];
  const port = Number(digits);
  if (digits === undefined || port > 65_535) return undefined;
  return { host: ipv6 ?? name ?? "", port };
}

/** Any if --listen takes any, or if there are none after it. */
function portsAfter(port: number): readonly [number, number] {
  return port === 0 || port + 2 > 65_535 ? [0, 0] : [port + 1, port + 2];
}

/** @returns Undefined for `none`, null for what is neither that nor two ports. */
function parsePorts(text: string): readonly [number, number] | undefined | null {
  if (text === "none") return undefined;
  const [, a, b] = /^(\d{1,5}),(\d{1,5})$/.exec(text) ?? [];
  const [first, second] = [Number(a), Number(b)];
  if (b === undefined || first > 65_535 || second > 65_535) return null;
  return first === second && first !== 0 ? null : [first, second];
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}

function overlap(a: Address, b: Address): boolean {
  return a.host === b.host || ["", "0.0.0.0", "::"].includes(b.host);
}

function isUrl(text: string, protocols: readonly string[]): boolean {
  return URL.canParse(text) && protocols.includes(new URL(text).protocol);
}

function originOf(text: string): string | undefined {
  if (!isUrl(text, ["https:"])) return undefined;
  const url = new URL(text);
  const bare = url.pathname === "/" && url.search === "" && url.hash === "" && url.username === "";
  return bare ? url.origin : undefined;
}

/** The XDG rules: a path that is not absolute is to be ignored. */
function absolute(path: string | undefined): string | undefined {
  return path?.startsWith("/") === true ? path : undefined;
}
