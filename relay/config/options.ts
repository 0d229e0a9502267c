/**
 * The relay's options: what each is called on the command line, in the environment and in the file, and what was given.
 *
 * An option has one name: `--public-url` is `public-url` in the file and `MEMFERRY_PUBLIC_URL` in the environment.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { parse, TomlError, type TomlTable } from "smol-toml";

import { messageOf } from "../protocol/errors.ts";
import { systemCode } from "../errors.ts";

interface OptionRules {
  /** A `switch` is on unless it is said otherwise if its flag begins with `no-`, else off. */
  readonly type: "text" | "number" | "list" | "switch";
  /** Undefined: as the flag, in capitals, after `MEMFERRY_`. */
  readonly environment?: string;
  /** Only on the command line: it is about the file, or about this one start. */
  readonly flagOnly?: boolean;
}

export const OPTIONS = {
  config: { type: "text" },
  listen: { type: "text" },
  dashboard: { type: "text" },
  data: { type: "text" },
  "database-url": { type: "text", environment: "DATABASE_URL" },
  "database-url-file": { type: "text" },
  "public-url": { type: "text" },
  certificate: { type: "text" },
  "private-key": { type: "text" },
  "acme-domains": { type: "list" },
  "acme-email": { type: "text" },
  "acme-directory": { type: "text" },
  "acme-ca-file": { type: "text" },
  "acme-challenge": { type: "text" },
  "acme-agree-terms": { type: "switch" },
  "secret-key-file": { type: "text" },
  name: { type: "text" },
  zone: { type: "text" },
  "drain-wait": { type: "number" },
  retention: { type: "number" },
  "audit-retention": { type: "number" },
  "webhook-allow": { type: "list" },
  "webhook-http": { type: "switch" },
  limits: { type: "list" },
  "discovery-ports": { type: "list" },
  "log-level": { type: "text" },
  json: { type: "switch" },
  "no-webtransport": { type: "switch" },
  "no-user-config": { type: "switch" },
  "check-config": { type: "switch", flagOnly: true },
  help: { type: "switch", flagOnly: true },
} as const satisfies Record<string, OptionRules>;

export type OptionName = keyof typeof OPTIONS;

/** A value as text, whatever it came from; `name` is how its giver wrote the option. */
export interface Given {
  readonly value: string;
  readonly name: string;
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** What was given, flags before environment before file. What is wrong goes into `problems`, a line each. */
export function readOptions(
  args: readonly string[],
  env: Environment,
  problems: string[],
): ReadonlyMap<OptionName, Given> {
  const flags = readFlags(args, problems);
  if (flags.has("help")) return flags;
  const given = new Map([...readEnvironment(env, problems), ...flags]);
  const file = given.get("config");
  const all = file === undefined ? given : new Map([...readFile(file, problems), ...given]);
  // A switch that was said to be off is one that nobody has given.
  for (const [option, { value }] of all) {
    if (rulesOf(option).type === "switch" && value === "false") all.delete(option);
  }
  return all;
}

/** The last of each flag wins. */
function readFlags(args: readonly string[], problems: string[]): Map<OptionName, Given> {
  const flags = new Map<OptionName, Given>();
  const options = Object.fromEntries(
    names().map((name) => [
      name,
      name === "help"
        ? ({ type: "boolean", short: "h" } as const)
        : { type: rulesOf(name).type === "switch" ? ("boolean" as const) : ("string" as const) },
    ]),
  );
  // Not strict: that would report the first problem alone.
  const { tokens } = parseArgs({ args: [...args], options, strict: false, tokens: true });
  for (const token of tokens) {
    if (token.kind === "positional") {
      problems.push(`"${token.value}" is no option of \`memferry relay\`: see --help`);
    }
    if (token.kind !== "option") continue;
    const option = names().find((name) => name === token.name);
    if (option === undefined) {
      problems.push(`${token.rawName}: there is no such option: see --help`);
    } else if (rulesOf(option).type === "switch") {
      if (token.value !== undefined) problems.push(`--${option}: takes no value: leave it out`);
      flags.set(option, { value: "true", name: `--${option}` });
    } else if (token.value === undefined || token.value === "") {
      problems.push(`--${option}: its value is missing: write --${option} VALUE, see --help`);
    } else {
      flags.set(option, { value: token.value, name: `--${option}` });
    }
  }
  return flags;
}

function readEnvironment(env: Environment, problems: string[]): Map<OptionName, Given> {
  const given = new Map<OptionName, Given>();
  for (const option of names()) {
    const rules = rulesOf(option);
    if (rules.flagOnly === true) continue;
    const plain = plainName(option);
    const name = rules.environment ?? `MEMFERRY_${plain.toUpperCase().replaceAll("-", "_")}`;
    const value = env[name];
    // An empty variable is one that was unset where unsetting is not possible.
    if (value === undefined || value === "") continue;
    if (rules.type !== "switch") {
      given.set(option, { value, name });
    } else if (value === "true" || value === "false") {
      given.set(option, { value: String((value === "true") === (plain === option)), name });
    } else {
      problems.push(`${name}: "${value}" is neither true nor false: write one of them`);
    }
  }
  return given;
}

/** TOML, one `name = value` a line; the path is relative to where the relay was started. */
function readFile(file: Given, problems: string[]): Map<OptionName, Given> {
  const given = new Map<OptionName, Given>();
  let table: TomlTable;
  try {
    table = parse(readFileSync(file.value, "utf8"));
  } catch (error) {
    problems.push(
      error instanceof TomlError
        ? `${file.value}:${error.line}:${error.column}: this is not TOML: ${firstLine(error.message)}`
        : `${file.name}: ${file.value} cannot be read (${systemCode(error) ?? messageOf(error)}): give a file that this user may read`,
    );
    return given;
  }
  for (const [key, value] of Object.entries(table)) {
    const name = `${file.value}: ${key}`;
    const option = names().find(
      (known) => plainName(known) === key && rulesOf(known).flagOnly !== true && known !== "config",
    );
    if (option === undefined) {
      problems.push(`${name}: there is no such option: see \`memferry relay --help\``);
      continue;
    }
    const { type } = rulesOf(option);
    const text = textOf(type, value);
    if (text === undefined) problems.push(`${name}: ${EXPECTED[type]}`);
    else if (type !== "switch") given.set(option, { value: text, name });
    else given.set(option, { value: String((text === "true") === (key === option)), name });
  }
  return given;
}

const EXPECTED: Readonly<Record<OptionRules["type"], string>> = {
  text: 'a text is due: write it in quotes, as "value"',
  number: "a whole number is due: write it without quotes",
  list: 'a list is due: write e.g. ["first", "second"]',
  switch: "true or false is due: write it without quotes",
};

function textOf(type: OptionRules["type"], value: unknown): string | undefined {
  const isWhole = typeof value === "number" && Number.isSafeInteger(value);
  switch (type) {
    case "text":
      return typeof value === "string" && value !== "" ? value : undefined;
    case "number":
      return isWhole ? String(value) : undefined;
    case "switch":
      return typeof value === "boolean" ? String(value) : undefined;
    case "list":
      // `discovery-ports = "none"` is no list, and is how the flag says it.
      if (typeof value === "string" && value !== "") return value;
      return Array.isArray(value) &&
        value.every((item) => typeof item === "string" || typeof item === "number")
        ? value.join(",")
        : undefined;
  }
}

function firstLine(text: string): string {
  return (text.split("\n")[0] ?? "").replace(/^Invalid TOML document: /, "");
}

function names(): OptionName[] {
  // The keys of an object literal are its own.
  return Object.keys(OPTIONS) as OptionName[];
}

function rulesOf(name: OptionName): OptionRules {
  return OPTIONS[name];
}

/** `no-webtransport` is `webtransport = false` where a value can be said. */
function plainName(name: OptionName): string {
  return rulesOf(name).type === "switch" ? name.replace(/^no-/, "") : name;
}
