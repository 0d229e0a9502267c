/**
 * Describes a command once: its options are parsed by it and its help is printed from it.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { MigrationError } from "../errors.ts";
import { parseDuration, parseSize } from "./size.ts";

export interface OptionSpec {
  /** Shown after the option, e.g. `PATH`; absent for a switch. */
  readonly value?: string;
  readonly help: string;
  readonly repeatable?: boolean;
}

export interface CommandSpec {
  readonly name: string;
  /** What follows the name, e.g. `TICKET --file PATH [options]`. */
  readonly usage: string;
  /** One sentence. */
  readonly summary: string;
  readonly options: Readonly<Record<string, OptionSpec>>;
  /** Command and what it does. */
  readonly examples: readonly (readonly [command: string, explanation: string])[];
  /** Anything that a reader of the help must know. */
  readonly notes?: readonly string[];
  readonly positionalsMax: number;
}

/** Options that every command takes. */
export const COMMON_OPTIONS = {
  json: { help: "print one JSON object per line, for programs" },
  quiet: { help: "print nothing but errors" },
  help: { help: "show this help" },
} as const satisfies Readonly<Record<string, OptionSpec>>;

export class Arguments {
  /** As they were typed. */
  readonly argv: readonly string[];
  readonly positionals: readonly string[];
  readonly #values: Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>;

  constructor(
    argv: readonly string[],
    positionals: readonly string[],
    values: Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>,
  ) {
    this.argv = argv;
    this.positionals = positionals;
    this.#values = values;
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  text(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === "string" ? value : undefined;
  }

  /** What was given for a repeatable option, in order. */
  texts(name: string): string[] {
    const value = this.#values[name];
    const values = Array.isArray(value) ? value : value === undefined ? [] : [value];
    return values.filter((each) => typeof each === "string");
  }

  /** @throws MigrationError `USAGE` */
  required(name: string, why: string): string {
    const value = this.text(name);
    if (value === undefined || value === "") throw usage(`--${name} is missing: ${why}`);
    return value;
  }

  /** @throws MigrationError `USAGE` */
  size(name: string): number | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    const bytes = parseSize(value);
    if (bytes === undefined) {
      throw usage(
        `--${name} ${value} is not a size: write it as 64KiB, 256MiB or a number of bytes`,
      );
    }
    return bytes;
  }

  /** @returns Milliseconds. @throws MigrationError `USAGE` */
  duration(name: string, fallbackMs: number): number {
    const value = this.text(name);
    if (value === undefined) return fallbackMs;
    const ms = parseDuration(value);
    if (ms === undefined)
      throw usage(`--${name} ${value} is not a time: write it as 300ms, 10m or 1h`);
    return ms;
  }

  /** @throws MigrationError `USAGE` */
  oneOf<T extends string>(name: string, values: readonly T[], fallback: T): T {
    const value = this.text(name);
    if (value === undefined) return fallback;
    const found = values.find((candidate) => candidate === value);
    if (found === undefined) throw usage(`--${name} ${value} is not one of ${values.join(", ")}`);
    return found;
  }
}

export function usage(message: string): MigrationError {
  return new MigrationError("USAGE", message);
}

/** @throws MigrationError `USAGE` */
export function parseCommand(spec: CommandSpec, argv: readonly string[]): Arguments {
  const options: Record<string, { type: "string" | "boolean"; multiple?: boolean }> = {};
  for (const [name, option] of allOptions(spec)) {
    options[name] = {
      type: option.value === undefined ? "boolean" : "string",
      multiple: option.repeatable ?? false,
    };
  }
  try {
    const parsed = parseArgs({ args: [...argv], options, allowPositionals: true });
    if (parsed.positionals.length > spec.positionalsMax) {
      const extra = parsed.positionals[spec.positionalsMax] ?? "";
      throw usage(`"${extra}" is one argument too many: see memferry ${spec.name} --help`);
    }
    return new Arguments(argv, parsed.positionals, parsed.values);
  } catch (cause) {
    if (cause instanceof MigrationError) throw cause;
    const text = cause instanceof Error ? (cause.message.split(/[.\n]/)[0] ?? "") : String(cause);
    throw usage(`${text}: see memferry ${spec.name} --help`);
  }
}

export function commandHelp(spec: CommandSpec): string {
  const lines = [`Usage: memferry ${spec.name} ${spec.usage}`, "", spec.summary, "", "Options:"];
  const entries = allOptions(spec).map(
    ([name, option]) =>
      [
        option.value === undefined ? `--${name}` : `--${name} ${option.value}`,
        option.help,
      ] as const,
  );
  const width = Math.max(...entries.map(([left]) => left.length)) + 2;
  for (const [left, help] of entries) lines.push(`  ${left.padEnd(width)}${help}`);
  lines.push("", "Examples:");
  for (const [command, explanation] of spec.examples) {
    lines.push(`  # ${explanation}`, `  ${command}`);
  }
  if (spec.notes !== undefined) lines.push("", ...spec.notes);
  return `${lines.join("\n")}\n`;
}

function allOptions(spec: CommandSpec): [string, OptionSpec][] {
  const common: Readonly<Record<string, OptionSpec>> = COMMON_OPTIONS;
  return Object.entries({ ...spec.options, ...common });
}
