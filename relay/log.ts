/**
 * The relay's log: one line an event, JSON for machines or text for people.
 *
 * Nothing secret belongs in a log. What looks like a key or a ticket is cut out all the same, since a
 * message may quote what somebody sent.
 *
 * @module
 */

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export type Log = (
  level: LogLevel,
  message: string,
  fields?: Readonly<Record<string, unknown>>,
) => void;

export interface LogOptions {
  readonly level: LogLevel;
  readonly format: "json" | "text";
  /** Takes whole lines, without the line break. */
  readonly write: (line: string) => void;
  /** Milliseconds since the epoch. */
  readonly clock?: () => number;
}

/** Longer fields are cut: a line has a bound whatever was sent. */
const FIELD_CHARS_MAX = 500;

export function createLog(options: LogOptions): Log {
  const lowest = LOG_LEVELS.indexOf(options.level);
  const clock = options.clock ?? Date.now;
  return (level, message, fields = {}) => {
    if (LOG_LEVELS.indexOf(level) < lowest) return;
    const at = new Date(clock()).toISOString();
    const safe = Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => [key, safeField(key, value)] as const);
    if (options.format === "json") {
      options.write(
        JSON.stringify({ at, level, message: redact(message), ...Object.fromEntries(safe) }),
      );
      return;
    }
    const rest = safe.map(([key, value]) => ` ${key}=${textField(value)}`).join("");
    options.write(`${at} ${level.padEnd(5)} ${oneLine(redact(message))}${rest}`);
  };
}

/** Fields whose value is a secret whatever it looks like. */
const SECRET_FIELD = /token|secret|password|authorization|cookie|api_?key|ticket/i;

/** API keys; tickets; bearer credentials; passwords in URLs; and runs of base64url as long as a token. */
const SECRETS = [
  /\bmfk_[A-Za-z0-9_-]+/g,
  /\bmemferry\d+_[A-Za-z0-9_-]+/g,
  /(?<=\b(?:bearer|basic)\s+)\S+/gi,
  /(?<=\/\/[^\s/:@]*:)[^\s/@]+(?=@)/g,
  /(?<![A-Za-z0-9_-])(?=[A-Za-z0-9_-]*[G-Zg-z_-])[A-Za-z0-9_-]{43,}(?![A-Za-z0-9_-])/g,
];

/** Cuts out what looks like a secret. */
export function redact(text: string): string {
  return SECRETS.reduce((rest, pattern) => rest.replaceAll(pattern, "[redacted]"), text);
}

function safeField(key: string, value: unknown): string | number | boolean | null {
  if (value === null || typeof value === "number" || typeof value === "boolean") return value;
  if (SECRET_FIELD.test(key)) return "[redacted]";
  const text =
    typeof value === "string"
      ? value
      : value instanceof Error
        ? `${value.name}: ${value.message}`
        : (JSON.stringify(value) ?? typeof value);
  const short = text.length > FIELD_CHARS_MAX ? `${text.slice(0, FIELD_CHARS_MAX)}…` : text;
  return redact(short);
}

function textField(value: string | number | boolean | null): string {
  if (typeof value !== "string") return String(value);
  const line = oneLine(value);
  return /^[\w.:/@[\]-]+$/.test(line) ? line : JSON.stringify(line);
}

/** Nobody can begin a line of ours, or send a terminal its commands. */
function oneLine(text: string): string {
  // oxlint-disable-next-line no-control-regex -- these are the characters to remove
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ");
}
