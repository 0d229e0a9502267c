/**
 * `memferry sessions`: lists, shows and steers sessions through the relay's API.
 *
 * @module
 */
import { ApiClient, type SessionBody } from "../net/api-client.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import type { Output } from "./output.ts";
import { RELAY_OPTIONS, relayAccess } from "./relay-access.ts";
import { formatBytes } from "./size.ts";

export const sessionsSpec: CommandSpec = {
  name: "sessions",
  usage: "list | show ID | finalize ID | cancel ID [options]",
  summary: "Lists, shows and steers the sessions of a relay.",
  positionalsMax: 2,
  options: {
    ...RELAY_OPTIONS,
    state: { value: "STATE", help: "list only sessions in this state, e.g. precopy" },
  },
  examples: [
    ["memferry sessions list", "what is going on"],
    ["memferry sessions finalize 5f2c...", "switch over now"],
    [
      "memferry sessions cancel 5f2c...",
      "end it; before the commit the workload goes on at the source",
    ],
  ],
};

export async function sessions(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const [action = "list", id] = args.positionals;
  if (!["list", "show", "finalize", "cancel"].includes(action)) {
    throw usage(`"${action}" is not one of list, show, finalize, cancel`);
  }
  if (action !== "list" && id === undefined)
    throw usage(`which session? memferry sessions ${action} ID`);
  const api = new ApiClient(await relayAccess(args));
  if (action === "finalize" || action === "cancel") {
    await api.act(id ?? "", action);
    output.event({ event: action, id: id ?? "" });
    output.note(action === "finalize" ? "switching over" : "cancelled");
    return ExitCode.done;
  }
  if (action === "show") {
    const session = await api.getSession(id ?? "");
    output.event({ event: "session", ...session });
    output.result(JSON.stringify(session, null, 2));
    return ExitCode.done;
  }
  const state = args.text("state");
  const query = state === undefined ? "" : `state=${encodeURIComponent(state)}`;
  let cursor: string | undefined;
  do {
    const parts = [query, cursor === undefined ? "" : `cursor=${encodeURIComponent(cursor)}`];
    const page = await api.listSessions(`?${parts.filter((part) => part !== "").join("&")}`);
    // Not before the relay has answered: a list that cannot be had has no head either.
    if (cursor === undefined) output.result(row("ID", "STATE", "RUNS AT", "READY", "NAME"));
    for (const session of page.sessions) {
      output.event({ event: "session", ...session });
      output.result(line(session));
    }
    cursor = page.next;
  } while (cursor !== undefined);
  return ExitCode.done;
}

function line(session: SessionBody): string {
  const progress = session["progress"];
  const ready = field(progress, "chunksReady");
  const total = field(progress, "chunksTotal");
  const bytes = field(progress, "bytesTotal");
  const share =
    ready === undefined || total === undefined || total === 0
      ? "-"
      : `${Math.floor((ready / total) * 100)} % of ${formatBytes(bytes ?? 0)}`;
  const holder = session.authority?.holder === "leecher" ? "destination" : "source";
  return row(session.id, session.state, holder, share, session.name ?? "");
}

function row(id: string, state: string, runsAt: string, ready: string, name: string): string {
  // A name comes from somebody else: nothing of it may steer the terminal.
  const shown = name.replaceAll(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, "?");
  return `${id.padEnd(36)}  ${state.padEnd(10)}  ${runsAt.padEnd(11)}  ${ready.padEnd(18)}  ${shown}`;
}

function field(value: unknown, name: string): number | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const found: unknown = Object.entries(value).find(([key]) => key === name)?.[1];
  return typeof found === "number" ? found : undefined;
}
