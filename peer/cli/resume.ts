/**
 * `memferry resume`: goes on with a session after its process or its host was started again.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import { MigrationError } from "../errors.ts";
import { SessionDirectory } from "../journal/session-directory.ts";
import { parseCommand, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import { leech, leechSpec } from "./leech.ts";
import type { Output } from "./output.ts";
import { ExportOptions } from "./region-options.ts";
import { findSession, STATE_OPTIONS, stateDirectory, type Resumed } from "./resumption.ts";
import { seed, seedSpec } from "./seed.ts";

export const resumeSpec: CommandSpec = {
  name: "resume",
  usage: "[SESSION] [options]",
  summary:
    "Goes on with a session after its process or its host was started again, on either side.",
  positionalsMax: 1,
  options: { ...STATE_OPTIONS },
  examples: [
    ["memferry resume", "list the sessions of this host that can go on"],
    ["memferry resume 3f9a", "go on with the one whose id begins so"],
  ],
  notes: [
    "It does what the session's own command said: the same files, exports and hooks, in the directory where that was typed.",
    "A workload that was stopped by the crash is started by its hook: --on-resume at the destination, --on-rollback at the source.",
    "Exit status: as of `memferry seed` and `memferry leech`.",
  ],
};

export async function resume(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const [session] = args.positionals;
  if (session === undefined) return await list(args, output);
  const directory = await findSession(args, session);
  const setup = await directory.setup();
  if (await directory.isOver()) {
    throw new MigrationError(
      "RESUME_INVALID",
      `session ${directory.id} is over: there is nothing to go on with`,
    );
  }
  process.chdir(setup.cwd);
  const resumed: Resumed = { directory, setup };
  // The session stays where it was found, whatever its command line said.
  const argv = [...setup.argv, "--state-dir", stateDirectory(args)];
  return directory.role === "seeder"
    ? await seed(parseCommand(seedSpec, argv), output, resumed)
    : await leech(parseCommand(leechSpec, argv), output, resumed);
}

/** Whether programs use the session's regions through us, so that it is to be supervised. */
export async function hasExport(args: Arguments): Promise<boolean> {
  const [session] = args.positionals;
  if (session === undefined) return false;
  const directory = await findSession(args, session);
  const { argv } = await directory.setup();
  const spec = directory.role === "seeder" ? seedSpec : leechSpec;
  return new ExportOptions(parseCommand(spec, argv)).served.length > 0;
}

async function list(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const directories = await SessionDirectory.list(stateDirectory(args));
  let shown = 0;
  for (const directory of directories) {
    const row = await describe(directory);
    if (row === undefined) continue;
    shown++;
    output.event({ event: "session", ...row });
    output.result(`${row.session}  ${row.role.padEnd(7)}  ${row.phase.padEnd(10)}  ${row.command}`);
  }
  if (shown === 0)
    output.note("no session of this host can go on: all are over, or there were none");
  return ExitCode.done;
}

async function describe(directory: SessionDirectory): Promise<
  | {
      readonly session: string;
      readonly role: string;
      readonly phase: string;
      readonly command: string;
    }
  | undefined
> {
  const common = { session: directory.id, role: directory.role };
  try {
    if (await directory.isOver()) return undefined;
    const { argv } = await directory.setup();
    const journal =
      directory.role === "seeder" ? directory.seederJournal() : directory.leecherJournal();
    const { record } = await journal;
    const command = `memferry ${directory.role === "seeder" ? "seed" : "leech"} ${argv.join(" ")}`;
    return { ...common, phase: record?.phase ?? "begun", command };
  } catch (error) {
    return { ...common, phase: "damaged", command: messageOf(error) };
  }
}
