/**
 * The `memferry` command.
 *
 * @module
 */
import "../relay/heap-limits.ts";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { messageOf } from "../relay/protocol/errors.ts";
import { agentSpec } from "./cli/agent-spec.ts";
import { commandHelp, parseCommand, type Arguments, type CommandSpec } from "./cli/command-line.ts";
import { ExitCode, type ExitCodeValue } from "./cli/exit-code.ts";
import { errorCode } from "./cli/failure.ts";
import { doctor, doctorSpec } from "./cli/doctor.ts";
import { keys, keysSpec } from "./cli/keys.ts";
import { leech, leechSpec } from "./cli/leech.ts";
import { login, loginSpec } from "./cli/login.ts";
import { mountSpec } from "./cli/mount-spec.ts";
import { Output } from "./cli/output.ts";
import { projects, projectsSpec } from "./cli/projects.ts";
import { recover, recoverSpec } from "./cli/recover.ts";
import { ExportOptions } from "./cli/region-options.ts";
import { hasExport, resume, resumeSpec } from "./cli/resume.ts";
import { stateDirectory } from "./cli/resumption.ts";
import { seed, seedSpec } from "./cli/seed.ts";
import { sessions, sessionsSpec } from "./cli/sessions.ts";
import { shim, shimSpec } from "./cli/shim.ts";
import { verify, verifySpec } from "./cli/verify.ts";
import { peerEnvironment } from "./config.ts";
import { MigrationError } from "./errors.ts";
import { supervise } from "./supervisor/supervisor.ts";
import { VERSION } from "./version.ts";

/** Loaded only when it is meant: it has parts that nobody else needs. */
const agentCommand = async (args: Arguments, output: Output): Promise<ExitCodeValue> =>
  await (await import("./cli/agent.ts")).agent(args, output);

const mountCommand = async (args: Arguments, output: Output): Promise<ExitCodeValue> =>
  await (await import("./cli/mount.ts")).mount(args, output);

interface Command {
  readonly spec: CommandSpec;
  run(args: Arguments, output: Output): Promise<ExitCodeValue>;
}

const COMMANDS: Readonly<Record<string, Command>> = {
  seed: { spec: seedSpec, run: seed },
  leech: { spec: leechSpec, run: leech },
  resume: { spec: resumeSpec, run: resume },
  recover: { spec: recoverSpec, run: recover },
  verify: { spec: verifySpec, run: verify },
  sessions: { spec: sessionsSpec, run: sessions },
  mount: { spec: mountSpec, run: mountCommand },
  agent: { spec: agentSpec, run: agentCommand },
  keys: { spec: keysSpec, run: keys },
  projects: { spec: projectsSpec, run: projects },
  login: { spec: loginSpec, run: login },
  doctor: { spec: doctorSpec, run: doctor },
  shim: { spec: shimSpec, run: shim },
};

const HELP = `memferry moves a live memory region from one Linux host to another over any network,
while the workload that uses it keeps running.

Usage: memferry COMMAND [options]

Commands:
  relay      the hosted service where peers meet: REST API, dashboard, relay
  seed       offers a region and prints a one-use ticket
  leech      takes a region over with a ticket
  resume     goes on with a session after a crash, on either side
  recover    tells who owns a session's regions, and lets the operator decide
  verify     compares two regions, or one with its session's manifest
  sessions   lists, shows, finalizes and cancels sessions
  mount      shows a region that stays in a store
  agent      keeps this host connected, for the relay's REST API to order it
  keys       makes, lists and revokes API keys
  projects   makes, lists, changes and deletes projects, for a relay's operator
  login      makes a relay known to this user
  doctor     tells what works from this host, and what to do about what does not
  shim       prints the library that makes a program's memory a region

Examples:
  # on one machine, in three terminals
  memferry relay
  memferry seed --file disk.img
  memferry leech TICKET --file copy.img

memferry COMMAND --help tells more. Exit status: 0 done; 1 failed, the source still owns the region;
2 usage; 3 failed after the commit, with what to do next.
`;

// Everything of ours is closed by then; a transport may still hold a handle for a peer that is gone.
process.exit(await main(process.argv.slice(2)));

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === "help" || name === "--help" || name === "-h") {
    process.stdout.write(HELP);
    return name === undefined ? ExitCode.usage : ExitCode.done;
  }
  if (name === "--version" || name === "version") {
    process.stdout.write(`memferry ${VERSION}\n`);
    return ExitCode.done;
  }
  if (name === "relay") return await relay(rest);
  const output = new Output({
    json: rest.includes("--json"),
    quiet: rest.includes("--quiet"),
    colour: peerEnvironment().colour,
  });
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined) {
    output.error("USAGE", `"${name}" is not a command: see memferry --help`);
    return ExitCode.usage;
  }
  if (rest.includes("--help") || rest.includes("-h")) {
    process.stdout.write(commandHelp(command.spec));
    return ExitCode.done;
  }
  try {
    const args = parseCommand(command.spec, rest);
    if (await isSupervised(name, args)) {
      const common = ["--json", "--quiet"].filter((option) => rest.includes(option));
      return await supervise({
        program: [fileURLToPath(import.meta.url)],
        argv,
        resumeArgv: (session) => [
          "resume",
          session,
          "--state-dir",
          stateDirectory(args),
          ...common,
        ],
        output,
      });
    }
    return await command.run(args, output);
  } catch (error) {
    output.error(errorCode(error), messageOf(error));
    return error instanceof MigrationError && error.code === "USAGE"
      ? ExitCode.usage
      : ExitCode.failed;
  }
}

/** A peer that programs use through a mount must not take them down with it. */
async function isSupervised(name: string, args: Arguments): Promise<boolean> {
  if (args.flag("no-supervisor") || peerEnvironment().holdings !== undefined) return false;
  if (name === "seed" || name === "leech") return new ExportOptions(args).served.length > 0;
  return name === "resume" && (await hasExport(args));
}

/** The relay is a program of its own, which no peer loads: it takes this process over. */
async function relay(argv: readonly string[]): Promise<number> {
  const program = ["../relay/main.ts", "../relay/main.js"]
    .map((candidate) => new URL(candidate, import.meta.url))
    .find((url) => existsSync(url));
  if (program === undefined) {
    process.stderr.write(
      "memferry: the relay is not part of this installation: install memferry anew\n",
    );
    return ExitCode.failed;
  }
  process.argv = [process.argv[0] ?? "node", fileURLToPath(program), ...argv];
  await import(program.href);
  return Number(process.exitCode ?? ExitCode.done);
}
