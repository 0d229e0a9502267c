/**
 * `memferry projects`: makes, lists, changes and deletes the projects of a relay, for its operator.
 *
 * @module
 */
import { ApiClient } from "../net/api-client.ts";
import { asAnswer, entries, textOf, type Answer } from "./answer.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import type { Output } from "./output.ts";
import { RELAY_OPTIONS, relayAccess } from "./relay-access.ts";
import { shown, table } from "./table.ts";

export const projectsSpec: CommandSpec = {
  name: "projects",
  usage: "list | show ID | create NAME | update ID | delete ID [options]",
  summary: "Makes, lists, changes and deletes the projects of a relay.",
  positionalsMax: 2,
  options: {
    ...RELAY_OPTIONS,
    name: { value: "NAME", help: "update: the project's new name" },
    limit: {
      value: "NAME=NUMBER",
      help: "create, update: a bound of the project, or NAME=default; may be repeated",
      repeatable: true,
    },
  },
  examples: [
    ["memferry projects list", "which projects there are"],
    [
      "memferry projects create orders --limit sessions=100 --limit relayedBytesPerS=125000000",
      "a project with bounds of its own",
    ],
    [
      "memferry keys create first --scope admin --project 6f1c...",
      "and the first key of it, for whoever it is for",
    ],
    ["memferry projects update 6f1c... --limit sessions=default", "the relay's own bound again"],
    [
      "memferry projects delete 6f1c...",
      "with its keys, peers and history; refused while sessions have not ended",
    ],
  ],
  notes: ["It takes an operator's key; `show` of one's own project takes an admin key."],
};

export async function projects(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const [action = "list", subject] = args.positionals;
  const path = `/v1/projects/${encodeURIComponent(subject ?? "")}`;
  const need = (what: string): string => {
    if (subject === undefined)
      throw usage(`memferry projects ${action} ${what}: ${what} is missing`);
    return subject;
  };
  switch (action) {
    case "list": {
      const rows = [["ID", "MADE", "LIMITS", "NAME"]];
      for await (const project of entries(await client(args), "/v1/projects", "projects")) {
        output.event({ event: "project", ...project });
        rows.push(rowOf(project));
      }
      for (const line of table(rows)) output.result(line);
      return ExitCode.done;
    }
    case "show":
      need("ID");
      return tell(output, asAnswer(await (await client(args)).ask("GET", path)));
    case "create": {
      const request = { name: need("NAME"), limits: limitsOf(args, false) };
      return tell(
        output,
        asAnswer(await (await client(args)).ask("POST", "/v1/projects", request)),
      );
    }
    case "update": {
      need("ID");
      const name = args.text("name");
      const limits = limitsOf(args, true);
      if (name === undefined && limits === undefined) {
        throw usage("nothing is to be changed: give --name or --limit");
      }
      const request = { name, limits };
      return tell(output, asAnswer(await (await client(args)).ask("PATCH", path, request)));
    }
    case "delete": {
      const id = need("ID");
      await (await client(args)).ask("DELETE", path);
      output.event({ event: "deleted", id });
      output.note("the project and all that was in it are gone");
      return ExitCode.done;
    }
    default:
      throw usage(`"${action}" is not one of list, show, create, update, delete`);
  }
}

async function client(args: Arguments): Promise<ApiClient> {
  return new ApiClient(await relayAccess(args));
}

function tell(output: Output, project: Answer): ExitCodeValue {
  output.event({ event: "project", ...project });
  for (const line of table([["ID", "MADE", "LIMITS", "NAME"], rowOf(project)])) output.result(line);
  return ExitCode.done;
}

function rowOf(project: Answer): string[] {
  const limits = Object.entries(asAnswer(project["limits"]));
  return [
    textOf(project, "id"),
    textOf(project, "createdAt").slice(0, 10),
    limits.map(([name, value]) => `${name}=${String(value)}`).join(",") || "-",
    shown(textOf(project, "name")),
  ];
}

/** @throws MigrationError `USAGE` */
function limitsOf(
  args: Arguments,
  mayBeDefault: boolean,
): Record<string, number | null> | undefined {
  const given = args.texts("limit");
  if (given.length === 0) return undefined;
  return Object.fromEntries(
    given.map((text): [string, number | null] => {
      const [, name, value = ""] = /^(\w+)=(.+)$/.exec(text) ?? [];
      if (name !== undefined && mayBeDefault && value === "default") return [name, null];
      const number = Number(value);
      if (name === undefined || value.trim() === "" || !Number.isFinite(number)) {
        throw usage(`--limit ${text}: write it as NAME=NUMBER, e.g. sessions=100`);
      }
      return [name, number];
    }),
  );
}
