/**
 * `--link`: which kind of connection carries the migration.
 *
 * @module
 */
import type { LinkChoice } from "../net/dial.ts";
import type { OptionSpec } from "./command-line.ts";

export const LINK_CHOICES = ["auto", "webtransport", "websocket"] as const satisfies LinkChoice[];

export const LINK_OPTION: OptionSpec = {
  value: "KIND",
  help: "auto, webtransport (UDP) or websocket (TCP); default auto",
};
