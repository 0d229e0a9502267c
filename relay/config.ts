/**
 * What the relay was told: flags over environment over defaults. The only reader of the environment.
 *
 * @module
 */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

import { LOG_LEVELS, type LogLevel } from "./log.ts";

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
  readonly webTransport: boolean;
  /** UDP ports for address discovery, 0 for any that is free; undefined if it is off. */
  readonly discoveryPorts: readonly [number, number] | undefined;
  readonly logLevel: LogLevel;
  /** The ready line, and the log, for machines. */
  readonly json: boolean;
  /** Where to tell the commands of this user about the relay; undefined not to. */
  readonly userConfigFile: string | undefined;
}

export type ConfigOutcome =
  | { readonly kind: "config"; readonly config: RelayConfig }
  | { readonly kind: "help" }
  /** One line each, with the cure. */
  | { readonly kind: "problems"; readonly problems: readonly string[] };

const DEFAULT_LISTEN = "127.0.0.1:8443";
const DEFAULT_DASHBOARD = "127.0.0.1:8444";

const OPTIONS = {
  listen: { type: "string" },
  dashboard: { type: "string" },
  data: { type: "string" },
  "database-url": { type: "string" },
  "public-url": { type: "string" },
  certificate: { type: "string" },
  "private-key": { type: "string" },
  "discovery-ports": { type: "string" },
  "log-level": { type: "string" },
  json: { type: "boolean" },
  "no-webtransport": { type: "boolean" },
  "no-user-config": { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

type Flag = keyof typeof OPTIONS;

const ENVIRONMENT: Partial<Record<Flag, string>> = {
  listen: "MEMFERRY_LISTEN",
  dashboard: "MEMFERRY_DASHBOARD",
  data: "MEMFERRY_DATA",
  "database-url": "DATABASE_URL",
  "public-url": "MEMFERRY_PUBLIC_URL",
  certificate: "MEMFERRY_CERTIFICATE",
  "private-key": "MEMFERRY_PRIVATE_KEY",
  "discovery-ports": "MEMFERRY_DISCOVERY_PORTS",
  "log-level": "MEMFERRY_LOG_LEVEL",
};

export const HELP = `Usage: memferry relay [options]

Runs the relay: it pairs seeders with leechers, copies what they send without being able to read it, and
serves the REST API and the console.

Options:
  --listen HOST:PORT      TLS for peers and the API, TCP and UDP (default ${DEFAULT_LISTEN})
  --dashboard HOST:PORT   the console over plain HTTP, on a loopback address, or "off"
                          (default ${DEFAULT_DASHBOARD})
  --data DIR              keys, certificate and the embedded database
                          (default \${XDG_STATE_HOME:-~/.local/state}/memferry/relay)
  --database-url URL      a PostgreSQL in place of the embedded database; other users can see
                          flags, so put a password into DATABASE_URL
  --public-url URL        how peers reach the relay, if not at --listen: https://HOST[:PORT]
  --certificate FILE      a certificate (PEM, the leaf first) that peers' trust stores accept;
  --private-key FILE      and its key. Without: self-signed, and tickets carry its hash
  --discovery-ports A,B   UDP ports where peers learn their own address, for direct paths, or "none"
                          (default: the two after --listen's)
  --no-webtransport       WebSocket alone
  --no-user-config        leave \${XDG_CONFIG_HOME:-~/.config}/memferry/config.json as it is
  --log-level LEVEL       ${LOG_LEVELS.join(", ")} (default info)
  --json                  one line {"event":"ready",...} on standard output, the log as JSON
  -h, --help              this text

Environment:
  DATABASE_URL, MEMFERRY_LISTEN, MEMFERRY_DASHBOARD, MEMFERRY_DATA, MEMFERRY_PUBLIC_URL,
  MEMFERRY_CERTIFICATE, MEMFERRY_PRIVATE_KEY, MEMFERRY_DISCOVERY_PORTS, MEMFERRY_LOG_LEVEL;
  flags win.

Exit status:
  0 after SIGTERM or SIGINT, 1 if it could not start, 2 if it was called wrongly.
`;

export function readConfig(
  args: readonly string[] = process.argv.slice(2),
  env: Readonly<Record<string, string | undefined>> = process.env,
): ConfigOutcome {
  const problems: string[] = [];
  const flags = readFlags(args, problems);
  if (flags.has("help")) return { kind: "help" };

  const given = (flag: Flag): { value: string; name: string } | undefined => {
    const value = flags.get(flag);
    if (value !== undefined) return { value, name: `--${flag}` };
    const name = ENVIRONMENT[flag];
    const fromEnv = name === undefined ? undefined : env[name];
    // An empty variable is one that was unset where unsetting is not possible.
    return name === undefined || fromEnv === undefined || fromEnv === ""
      ? undefined
      : { value: fromEnv, name };
  };

  const address = (flag: Flag, fallback: string): Address => {
    const { value, name } = given(flag) ?? { value: fallback, name: `--${flag}` };
    const parsed = parseAddress(value);
    if (parsed !== undefined) return parsed;
    problems.push(`${name}: "${value}" is not HOST:PORT: write e.g. ${fallback} or [::1]:8443`);
    return { host: "", port: 0 };
  };

  const listen = address("listen", DEFAULT_LISTEN);
  let dashboard: Address | undefined;
  if (given("dashboard")?.value !== "off") {
    const known = problems.length;
    dashboard = address("dashboard", DEFAULT_DASHBOARD);
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

  const database = given("database-url");
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

  if (problems.length > 0 || logLevel === undefined) return { kind: "problems", problems };
  return {
    kind: "config",
    config: Object.freeze({
      listen,
      dashboard,
      dataDir: resolve(given("data")?.value ?? join(state, "memferry", "relay")),
      databaseUrl: database?.value,
      publicUrl: origin,
      certificate:
        certificatePath === undefined || privateKeyPath === undefined
          ? undefined
          : { certificatePath: resolve(certificatePath), privateKeyPath: resolve(privateKeyPath) },
      discoveryPorts: discoveryPorts ?? undefined,
      webTransport: !flags.has("no-webtransport"),
      logLevel,
      json: flags.has("json"),
      userConfigFile: flags.has("no-user-config")
        ? undefined
        : join(configHome, "memferry", "config.json"),
    }),
  };
}

/** Every flag that was given, the last one winning; what is wrong goes into `problems`. */
function readFlags(args: readonly string[], problems: string[]): Map<Flag, string> {
  const flags = new Map<Flag, string>();
  // Not strict: that would report the first problem alone.
  const { tokens } = parseArgs({ args: [...args], options: OPTIONS, strict: false, tokens: true });
  for (const token of tokens) {
    if (token.kind === "positional") {
      problems.push(`"${token.value}" is no option of \`memferry relay\`: see --help`);
    }
    if (token.kind !== "option") continue;
    const flag = Object.keys(OPTIONS).find((name): name is Flag => name === token.name);
    if (flag === undefined) {
      problems.push(`${token.rawName}: there is no such option: see --help`);
    } else if (OPTIONS[flag].type === "boolean") {
      if (token.value !== undefined) problems.push(`--${flag}: takes no value: leave it out`);
      flags.set(flag, "");
    } else if (token.value === undefined || token.value === "") {
      problems.push(`--${flag}: its value is missing: write --${flag} VALUE, see --help`);
    } else {
      flags.set(flag, token.value);
    }
  }
  return flags;
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
