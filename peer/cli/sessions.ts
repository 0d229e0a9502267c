/**
 * `memferry sessions`: lists, shows and steers sessions through the relay's API.
 *
 * @module
 */
import { ApiClient, type SessionBody } from "../net/api-client.ts";
import { asAnswer, entries, textOf } from "./answer.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import type { Output } from "./output.ts";
import { RELAY_OPTIONS, relayAccess } from "./relay-access.ts";
import { formatBytes } from "./size.ts";
import { shown } from "./table.ts";

/** What the relay is asked to do, and what a person is told once it has been passed on. */
const ACTIONS = {
  start: "it begins",
  finalize: "switching over",
  postcopy: "switching over; what is missing is fetched afterwards",
  pause: "paused: writes are tracked on, nothing is sent and nothing handed over",
  resume: "it goes on",
  cancel: "cancelled",
  recover: "both sides begin afresh with each other",
} as const;
type Action = keyof typeof ACTIONS;

const WITH_ID = [...Object.keys(ACTIONS), "show", "events", "check", "set", "delete"];

export const sessionsSpec: CommandSpec = {
  name: "sessions",
  usage: "list | ACTION ID [options]",
  summary: "Lists, shows, changes and steers the sessions of a relay.",
  positionalsMax: 2,
  options: {
    ...RELAY_OPTIONS,
    state: { value: "STATE", help: "list only sessions in this state, e.g. precopy" },
    reason: { value: "TEXT", help: "with an action: why, for the session's history" },
    rate: { value: "SIZE", help: "set: bytes a second at most, e.g. 40MiB" },
    "downtime-target": { value: "TIME", help: "set: how long the workload may stand still" },
    "max-rounds": { value: "COUNT", help: "set: hand over after so many rounds" },
    deadline: { value: "TIME", help: "set: how long copying may take" },
    "on-deadline": {
      value: "ACTION",
      help: "set: cancel, finalize or postcopy when it has passed",
    },
    clear: { help: "set: take all limits away that are not named" },
  },
  examples: [
    ["memferry sessions list", "what is going on"],
    ["memferry sessions finalize 5f2c...", "switch over now"],
    [
      "memferry sessions cancel 5f2c...",
      "end it; before the commit the workload goes on at the source",
    ],
    ["memferry sessions pause 5f2c... --reason 'backup window'", "send nothing for a while"],
    [
      "memferry sessions set 5f2c... --downtime-target 2s --deadline 30m --on-deadline finalize",
      "let it hand over although it does not converge",
    ],
    ["memferry sessions events 5f2c...", "what happened to it"],
  ],
  notes: [
    "ACTION is one of show, events, check, set, delete, start, finalize, postcopy, pause, resume, cancel, recover.",
    "postcopy hands over before everything is there: if the source's host is lost then, so is what was still there.",
    "delete takes an ended session away, with its history.",
  ],
};

export async function sessions(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const [action = "list", id] = args.positionals;
  if (action !== "list" && !WITH_ID.includes(action)) {
    throw usage(`"${action}" is not one of list, ${WITH_ID.join(", ")}`);
  }
  if (action === "list") return await list(new ApiClient(await relayAccess(args)), args, output);
  if (id === undefined) throw usage(`which session? memferry sessions ${action} ID`);
  const change = action === "set" ? changeOf(args) : undefined;
  const api = new ApiClient(await relayAccess(args));
  const path = `/v1/sessions/${encodeURIComponent(id)}`;
  if (Object.hasOwn(ACTIONS, action))
    return await act(api, { path, id, args, output }, action as Action);
  switch (action) {
    case "events":
      return await events(api, path, output);
    case "check": {
      const { checks } = asAnswer(await api.ask("POST", `${path}:check`, {}));
      for (const check of (Array.isArray(checks) ? checks : []).map(asAnswer)) {
        output.event({ event: "check", ...check });
        const fix = textOf(check, "fix");
        output.result(
          `${textOf(check, "severity").padEnd(8)}${shown(textOf(check, "message"))}${fix === "" ? "" : `: ${shown(fix)}`}`,
        );
      }
      return ExitCode.done;
    }
    case "delete":
      await api.ask("DELETE", path);
      output.event({ event: "delete", id });
      output.note("it is gone");
      return ExitCode.done;
    default: {
      const session =
        change === undefined ? await api.getSession(id) : await patched(api, { path, id }, change);
      output.event({ event: "session", ...session });
      output.result(JSON.stringify(session, null, 2));
      return ExitCode.done;
    }
  }
}

interface Asked {
  readonly path: string;
  readonly id: string;
  readonly args: Arguments;
  readonly output: Output;
}

async function act(
  api: ApiClient,
  { path, id, args, output }: Asked,
  action: Action,
): Promise<ExitCodeValue> {
  const reason = args.text("reason");
  await api.ask("POST", `${path}:${action}`, reason === undefined ? {} : { reason });
  output.event({ event: action, id });
  output.note(ACTIONS[action]);
  return ExitCode.done;
}

async function events(api: ApiClient, path: string, output: Output): Promise<ExitCodeValue> {
  for await (const one of entries(api, `${path}/events`, "events")) {
    const { seq, at, type, data } = one;
    output.event({ event: "event", seq, at, type, data });
    const said = Object.entries(asAnswer(data)).map(([name, value]) => `${name}=${String(value)}`);
    output.result(
      shown(`${textOf(one, "at")}  ${textOf(one, "type").padEnd(20)}  ${said.join(" ")}`),
    );
  }
  return ExitCode.done;
}

interface Change {
  readonly limits: Readonly<Record<string, number>>;
  readonly onDeadline: string | undefined;
  readonly clear: boolean;
}

/** @throws MigrationError `USAGE` */
function changeOf(args: Arguments): Change {
  const rate = args.size("rate");
  const rounds = args.text("max-rounds");
  if (rounds !== undefined && !/^[1-9]\d{0,3}$/.test(rounds)) {
    throw usage(`--max-rounds ${rounds} is not a number from 1 to 9999`);
  }
  const time = (name: string): number | undefined =>
    args.text(name) === undefined ? undefined : args.duration(name, 0);
  const [target, deadline] = [time("downtime-target"), time("deadline")];
  const limits = {
    ...(rate === undefined ? {} : { bytesPerS: rate }),
    ...(target === undefined ? {} : { downtimeTargetMs: target }),
    ...(rounds === undefined ? {} : { maxRounds: Number(rounds) }),
    ...(deadline === undefined ? {} : { deadlineMs: deadline }),
  };
  const wanted = args.text("on-deadline");
  const onDeadline =
    wanted === undefined
      ? undefined
      : args.oneOf("on-deadline", ["cancel", "finalize", "postcopy"], "cancel");
  const clear = args.flag("clear");
  if (Object.keys(limits).length === 0 && onDeadline === undefined && !clear) {
    throw usage(
      "nothing is to be changed: give --rate, --downtime-target, --max-rounds, --deadline, --on-deadline or --clear",
    );
  }
  return { limits, onDeadline, clear };
}

/** What is not named stays, although the relay replaces limits as a whole. */
async function patched(
  api: ApiClient,
  { path, id }: { readonly path: string; readonly id: string },
  { limits, onDeadline, clear }: Change,
): Promise<SessionBody> {
  const now = await api.getSession(id);
  await api.ask("PATCH", path, {
    limits: { ...(clear ? {} : asAnswer(now["limits"])), ...limits },
    ...(onDeadline === undefined ? {} : { policy: { ...asAnswer(now["policy"]), onDeadline } }),
  });
  return await api.getSession(id);
}

async function list(api: ApiClient, args: Arguments, output: Output): Promise<ExitCodeValue> {
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
  return `${id.padEnd(36)}  ${state.padEnd(10)}  ${runsAt.padEnd(11)}  ${ready.padEnd(18)}  ${shown(name)}`;
}

function field(value: unknown, name: string): number | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const found: unknown = Object.entries(value).find(([key]) => key === name)?.[1];
  return typeof found === "number" ? found : undefined;
}
