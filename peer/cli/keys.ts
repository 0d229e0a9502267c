/**
 * `memferry keys`: makes, lists and revokes the API keys of a project.
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

export const keysSpec: CommandSpec = {
  name: "keys",
  usage: "list | create NAME --scope SCOPE... | revoke ID [options]",
  summary: "Makes, lists and revokes the API keys of a project.",
  positionalsMax: 2,
  options: {
    ...RELAY_OPTIONS,
    scope: {
      value: "SCOPE",
      help: "what the new key is good for, e.g. sessions:read; may be repeated",
      repeatable: true,
    },
    "expires-in": { value: "TIME", help: "how long the new key is good, e.g. 24h or 90d" },
    project: { value: "ID", help: "another project than the key's own, for an operator" },
    force: { help: "revoke also the last key that can make others" },
  },
  examples: [
    ["memferry keys list", "which keys there are, and when they were last used"],
    [
      "memferry keys create ci --scope sessions:read --scope sessions:write --expires-in 90d",
      "a key for a program, printed this once",
    ],
    [
      "memferry keys revoke 3f9ac01b77de",
      "from now on it lets nobody in; ID or PREFIX of the list",
    ],
  ],
  notes: [
    "Scopes: sessions:read, sessions:write, sessions:control, peers:read, peers:write; admin is good for all",
    "in its project, operator for the relay and every project. It takes an admin key to make others.",
  ],
};

const HOUR_MS = 3_600_000;
const UNITS_MS: Readonly<Record<string, number>> = { m: 60_000, h: HOUR_MS, d: 24 * HOUR_MS };

export async function keys(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const [action = "list", subject] = args.positionals;
  switch (action) {
    case "list":
      await list(await client(args), args, output);
      return ExitCode.done;
    case "create": {
      if (subject === undefined) throw usage("what is it for? memferry keys create NAME");
      const scopes = args.texts("scope");
      if (scopes.length === 0) throw usage("--scope is missing: what may the key do?");
      const request = {
        name: subject,
        scopes,
        expiresAt: expiry(args),
        projectId: args.text("project"),
      };
      const made = asAnswer(await (await client(args)).ask("POST", "/v1/keys", request));
      const key = asAnswer(made["key"]);
      const secret = textOf(made, "secret");
      output.event({ event: "key", ...key, secret });
      output.result(secret);
      output.note(`the key ${shown(textOf(key, "prefix"))} was made; it is shown this once`);
      return ExitCode.done;
    }
    case "revoke": {
      if (subject === undefined) throw usage("which key? memferry keys revoke ID");
      const api = await client(args);
      const id = await idOf(api, args, subject);
      const force = args.flag("force") ? "?force=true" : "";
      const key = asAnswer(await api.ask("DELETE", `/v1/keys/${encodeURIComponent(id)}${force}`));
      output.event({ event: "revoked", ...key });
      output.note(`the key ${shown(textOf(key, "prefix"))} lets nobody in any more`);
      return ExitCode.done;
    }
    default:
      throw usage(`"${action}" is not one of list, create, revoke`);
  }
}

async function client(args: Arguments): Promise<ApiClient> {
  return new ApiClient(await relayAccess(args));
}

async function list(api: ApiClient, args: Arguments, output: Output): Promise<void> {
  const rows = [["ID", "PREFIX", "STATE", "LAST USED", "EXPIRES", "SCOPES", "NAME"]];
  for await (const key of entries(api, "/v1/keys", "keys", { projectId: args.text("project") })) {
    output.event({ event: "key", ...key });
    rows.push([
      textOf(key, "id"),
      textOf(key, "prefix"),
      textOf(key, "state"),
      textOf(key, "lastUsedAt").slice(0, 16) || "never",
      textOf(key, "expiresAt").slice(0, 16) || "never",
      scopesOf(key),
      shown(textOf(key, "name")),
    ]);
  }
  for (const line of table(rows)) output.result(line);
}

function scopesOf(key: Answer): string {
  const scopes = key["scopes"];
  const names = Array.isArray(scopes) ? scopes.filter((scope) => typeof scope === "string") : [];
  return names.includes("operator")
    ? "operator"
    : names.includes("admin")
      ? "admin"
      : names.join(",");
}

/** What a person has at hand is the prefix: it is in the key. */
async function idOf(api: ApiClient, args: Arguments, given: string): Promise<string> {
  const prefix = /^mfk_([0-9a-f]{12})_/.exec(given)?.[1] ?? given;
  if (!/^[0-9a-f]{12}$/.test(prefix)) return given;
  for await (const key of entries(api, "/v1/keys", "keys", { projectId: args.text("project") })) {
    if (textOf(key, "prefix") === prefix) return textOf(key, "id");
  }
  throw usage(`no key of this project has the prefix ${prefix}: see memferry keys list`);
}

/** @throws MigrationError `USAGE` */
function expiry(args: Arguments): string | undefined {
  const given = args.text("expires-in");
  if (given === undefined) return undefined;
  const [, amount, unit = ""] = /^(\d+(?:\.\d+)?)(m|h|d)$/.exec(given) ?? [];
  const unitMs = UNITS_MS[unit];
  if (amount === undefined || unitMs === undefined) {
    throw usage(`--expires-in ${given} is not a time: write it as 30m, 24h or 90d`);
  }
  return new Date(Date.now() + Number(amount) * unitMs).toISOString();
}
