/**
 * What commands share that go on with a session of an earlier process.
 *
 * @module
 */
import { messageOf, ProtocolError } from "../../relay/protocol/errors.ts";
import { peerEnvironment } from "../config.ts";
import { MigrationError } from "../errors.ts";
import type { Setup } from "../journal/records.ts";
import { SessionDirectory } from "../journal/session-directory.ts";
import type { RelayControl } from "../net/relay-control.ts";
import { sleep } from "../sleep.ts";
import { usage, type Arguments, type OptionSpec } from "./command-line.ts";
import type { Interrupt } from "./interrupt.ts";
import type { Output } from "./output.ts";

const RETRY_FIRST_MS = 200;
const RETRY_MAX_MS = 5_000;

export const STATE_OPTIONS = {
  "state-dir": {
    value: "DIR",
    help: "where sessions are kept to go on with (default: ~/.local/state/memferry/sessions)",
  },
  "no-supervisor": { help: "do not start the peer again if it is killed" },
} as const satisfies Readonly<Record<string, OptionSpec>>;

/** A session of an earlier process. */
export interface Resumed {
  readonly directory: SessionDirectory;
  readonly setup: Setup;
}

export function stateDirectory(args: Arguments): string {
  return args.text("state-dir") ?? peerEnvironment().stateDirectory;
}

/** The one session that a person means. @throws MigrationError `USAGE` */
export async function findSession(args: Arguments, prefix: string): Promise<SessionDirectory> {
  const all = await SessionDirectory.list(stateDirectory(args));
  const found = all.filter(
    ({ id, path }) => id.startsWith(prefix.toLowerCase()) || path === prefix,
  );
  const [only, ...more] = found;
  if (only === undefined) {
    throw usage(`no session begins with ${prefix}: \`memferry resume\` lists them`);
  }
  if (more.length > 0) {
    throw usage(
      `${found.length} sessions begin with ${prefix}: ${found.map(({ role, id }) => `${role}-${id}`).join(", ")}`,
    );
  }
  return only;
}

/** Joins a session; one that an earlier process was in is joined as soon as the relay answers. */
export async function joinPatiently(
  output: Output,
  interrupt: Interrupt,
  how: { readonly patient: boolean; readonly join: () => Promise<RelayControl> },
): Promise<RelayControl> {
  let delayMs = RETRY_FIRST_MS;
  for (let told = false; ; told = true) {
    try {
      return await how.join();
    } catch (error) {
      if (!how.patient || (error instanceof ProtocolError && !isPassing(error))) throw error;
      if (!told) output.note(`the relay is out of reach (${messageOf(error)}), trying again`);
    }
    if (interrupt.count > 0) {
      throw new MigrationError("CANCELLED", "interrupted; `memferry resume` goes on");
    }
    await sleep(delayMs * (0.5 + Math.random()));
    delayMs = Math.min(delayMs * 2, RETRY_MAX_MS);
  }
}

/** What another attempt may cure. */
function isPassing(error: ProtocolError): boolean {
  return ["LINK_CLOSED", "DEADLINE_EXCEEDED", "RELAY_DRAINING", "INTERNAL"].includes(error.code);
}
