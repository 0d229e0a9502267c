/**
 * `memferry recover`: for the operator, when the relay or the other host does not come back.
 *
 * It tells what this side knows and what each choice risks. What is chosen goes into the journal, so that a later
 * `resume` cannot contradict it.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import type { LeecherPhase, SeederPhase } from "../journal/journal.ts";
import type { SessionDirectory } from "../journal/session-directory.ts";
import { dialLink } from "../net/dial.ts";
import { RelayControl } from "../net/relay-control.ts";
import { relayOf } from "../net/relay-pins.ts";
import type { Ownership } from "../migration/session-port.ts";
import { sleep } from "../sleep.ts";
import { usage, type Arguments, type CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import type { Output } from "./output.ts";
import { findSession, STATE_OPTIONS } from "./resumption.ts";

const ASK_MS = 5_000;

export const recoverSpec: CommandSpec = {
  name: "recover",
  usage: "SESSION [--keep-here | --give-up] [--yes] [options]",
  summary:
    "Tells who owns a session's regions as far as it is known, and lets the operator decide.",
  positionalsMax: 1,
  options: {
    "keep-here": { help: "from now on the regions are this side's" },
    "give-up": {
      help: "from now on the regions are the other side's; this one never touches them again",
    },
    yes: { help: "although the workload could then run on both sides, or on neither" },
    "state-dir": STATE_OPTIONS["state-dir"],
  },
  examples: [
    ["memferry recover 3f9a", "what is known, and what each choice risks"],
    [
      "memferry recover 3f9a --keep-here --yes",
      "the relay is lost for good, and the other side is off",
    ],
  ],
  notes: [
    "As long as the relay can be brought back, `memferry resume` is the right command: the relay knows the owner.",
    "Before --yes make sure that the workload does not run on the other host, and cannot start there.",
    "Exit status: 0 told or decided; 1 refused; 2 usage.",
  ],
};

/** Who the owner is, by what is known on this side. */
type Knowledge = "here" | "there" | "unknown";

interface Situation {
  readonly phase: SeederPhase | LeecherPhase | "begun";
  readonly relay: Ownership | undefined;
  readonly relayProblem: string;
  readonly knowledge: Knowledge;
}

export async function recover(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const [session] = args.positionals;
  if (session === undefined) throw usage("which session? `memferry resume` lists them");
  const [keep, giveUp] = [args.flag("keep-here"), args.flag("give-up")];
  if (keep && giveUp) throw usage("--keep-here and --give-up contradict each other");
  const directory = await findSession(args, session);
  const unlock = await directory.lock();
  try {
    const situation = await look(directory);
    tell(output, directory, situation);
    if (!keep && !giveUp) return ExitCode.done;
    return await decide(output, directory, situation, { keep, yes: args.flag("yes") });
  } finally {
    await unlock();
  }
}

async function look(directory: SessionDirectory): Promise<Situation> {
  const journal =
    directory.role === "seeder" ? directory.seederJournal() : directory.leecherJournal();
  const phase = (await journal).record?.phase ?? "begun";
  let relay: Ownership | undefined;
  let relayProblem = "";
  try {
    relay = await askRelay(directory);
  } catch (error) {
    relayProblem = messageOf(error);
  }
  return { phase, relay, relayProblem, knowledge: knowledgeOf(directory, phase, relay) };
}

/** One attempt, and then it leaves again. */
async function askRelay(directory: SessionDirectory): Promise<Ownership> {
  const { ticket, identity } = await directory.setup();
  const joining = RelayControl.join({
    ticket,
    identity,
    rejoin: true,
    dial: (signal) => dialLink("auto", { ...relayOf(ticket), signal }),
  });
  const control = await Promise.race([
    joining,
    sleep(ASK_MS).then(() => {
      throw new Error(`the relay did not answer within ${ASK_MS / 1000} s`);
    }),
  ]);
  const { ownership } = control;
  await control.close();
  return ownership;
}

function knowledgeOf(
  { role }: SessionDirectory,
  phase: Situation["phase"],
  relay: Ownership | undefined,
): Knowledge {
  if (relay !== undefined) return relay.owner === role ? "here" : "there";
  switch (phase) {
    case "begun":
    case "offered":
    case "joined":
    case "tracking":
    case "suspending":
    case "precopy":
    case "rolledBack":
    case "cancelled":
      // Nobody can have committed: the source's last word was never given, or never taken.
      return role === "seeder" ? "here" : "there";
    case "finalized":
    case "committing":
      return "unknown";
    case "committed":
    case "released":
    case "resumed":
    case "complete":
    case "done":
      return role === "seeder" ? "there" : "here";
  }
}

function tell(output: Output, directory: SessionDirectory, situation: Situation): void {
  const { phase, relay, relayProblem, knowledge } = situation;
  const { id, role } = directory;
  const other = role === "seeder" ? "the destination" : "the source";
  output.event({ event: "situation", session: id, role, phase, owner: knowledge, relayProblem });
  output.result(`session ${id}, ${role}`);
  output.result(`journal of this side: ${phase}`);
  output.result(
    relay === undefined
      ? `relay: ${relayProblem}`
      : `relay: the owner is the ${relay.owner}, the session is ${relay.state}`,
  );
  output.result(
    {
      here: "owner: this side",
      there: `owner: ${other}`,
      unknown:
        "owner: not known here. The hand-over was under way; only the relay, or the other side, knows",
    }[knowledge],
  );
  output.result(
    {
      here: `--keep-here: safe. --give-up: nobody would run the workload unless ${other} does already`,
      there: `--keep-here: the workload may then run on both sides. --give-up: safe`,
      unknown: `--keep-here: safe only if ${other} is off and stays off. --give-up: safe only if ${other} runs the workload or can`,
    }[knowledge],
  );
  if (role === "leecher") {
    output.result(
      phase === "complete" || phase === "done"
        ? "chunks: all are here"
        : "chunks: some are only at the source; without it what is missing here is lost",
    );
  }
}

async function decide(
  output: Output,
  directory: SessionDirectory,
  { phase, knowledge }: Situation,
  choice: { readonly keep: boolean; readonly yes: boolean },
): Promise<ExitCodeValue> {
  const safe = knowledge === (choice.keep ? "here" : "there");
  if (!safe && !choice.yes) {
    output.error(
      "UNSAFE",
      "this may run the workload on both sides or on neither: add --yes if it cannot",
    );
    return ExitCode.failed;
  }
  if (choice.keep && directory.role === "leecher" && phase !== "complete" && phase !== "done") {
    output.error(
      "INCOMPLETE",
      "chunks are missing here that only the source has: bring it back and type `memferry resume`; without it the region cannot be used",
    );
    return ExitCode.failed;
  }
  if (directory.role === "seeder") {
    const journal = await directory.seederJournal();
    const epochsReserved = journal.record?.epochsReserved ?? 0;
    await journal.write({ phase: choice.keep ? "rolledBack" : "released", epochsReserved });
  } else {
    const journal = await directory.leecherJournal();
    await journal.write({ ...journal.record, phase: choice.keep ? "done" : "cancelled" });
  }
  output.event({ event: "decided", session: directory.id, owner: choice.keep ? "here" : "there" });
  output.result(
    choice.keep
      ? "decided: the regions are this side's; start the workload on their files"
      : "decided: the regions are the other side's; this session is over here",
  );
  return ExitCode.done;
}
