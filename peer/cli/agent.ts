/**
 * `memferry agent`: a host that a relay's REST API can order to send and receive regions.
 *
 * @module
 */
import { mkdir } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname, join, resolve } from "node:path";
import { decodeEnrollmentCode, isAgentName } from "../../relay/protocol/agent.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { readAgentConfig, type AgentConfig } from "../agent/config.ts";
import { AgentConnection, RefusedError } from "../agent/connection.ts";
import { AgentIdentity } from "../agent/identity.ts";
import { AgentOrders } from "../agent/orders.ts";
import { hostReport, natClassOf } from "../agent/report.ts";
import { peerEnvironment } from "../config.ts";
import { takeLock } from "../journal/process-lock.ts";
import { parseRelayUrl } from "../net/address.ts";
import { usage, type Arguments } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import { Interrupt } from "./interrupt.ts";
import type { Output } from "./output.ts";
import { readSecret } from "./relay-access.ts";

const REPORT_INTERVAL_MS = 60_000;

export async function agent(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const environment = peerEnvironment();
  const configFile = args.text("config") ?? join(dirname(environment.configFile), "agent.json");
  const config = await readAgentConfig(configFile, args.text("config") !== undefined);
  if (args.flag("check-config")) {
    output.event({ event: "config", file: configFile, regions: [...config.regions.keys()] });
    output.result(`${configFile} is good`);
    return ExitCode.done;
  }
  // Whole: the peers that it starts run in it.
  const directory = resolve(
    args.text("state-dir") ?? join(dirname(environment.stateDirectory), "agent"),
  );
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const unlock = await takeLock(join(directory, "lock"), process.pid, (holder) =>
    usage(
      holder === undefined
        ? `${directory} cannot be taken: try again`
        : `another agent, process ${holder}, works in ${directory}: stop it, or give --state-dir another`,
    ),
  );
  try {
    return await run(args, output, { config, directory });
  } finally {
    await unlock();
  }
}

async function run(
  args: Arguments,
  output: Output,
  { config, directory }: { readonly config: AgentConfig; readonly directory: string },
): Promise<ExitCodeValue> {
  const { identity, enrollment } = await identityFor(args, directory);
  using interrupt = new Interrupt();
  const down = new AbortController();
  interrupt.handle(() => down.abort(new Error("interrupted")));
  let natClass = "unknown";
  const report = async (): Promise<void> => {
    try {
      connection.send(await hostReport(config, { directory, natClass }));
    } catch (error) {
      output.note(`warning: no report of this host: ${messageOf(error)}`);
    }
  };
  const orders = new AgentOrders({
    identity,
    config,
    stateDirectory: directory,
    send: (message) => connection.send(message),
    onChange: ({ id, kind, state, problem }) => {
      output.event({ event: "order", id, kind, state, problem: problem?.code ?? null });
      output.note(
        `order ${id} (${kind}): ${state}${problem === undefined ? "" : `, ${problem.message}`}`,
      );
    },
    signal: down.signal,
  });
  const connection = new AgentConnection({
    identity,
    enrollment,
    onWelcome: (name) => {
      output.event({ event: "online", peerId: identity.id, name });
      output.note(`${name} is online at ${identity.relay.url}`);
      orders.sayAll();
      void report();
    },
    onMessage: (message) => {
      if (message.type === "order") orders.receive(message);
      if (message.type === "orderKept") orders.kept(message.id, message.state);
      if (message.type === "probe") void report();
    },
    onLost: (reason) => {
      output.event({ event: "offline", reason });
      output.note(`the relay is out of reach (${reason}), trying again`);
    },
  });
  await orders.open();
  const timer = setInterval(() => void report(), REPORT_INTERVAL_MS);
  void natClassOf(identity).then((found) => {
    natClass = found;
    return report();
  });
  try {
    return await connection.run(down.signal);
  } catch (error) {
    if (down.signal.aborted) return ExitCode.done;
    if (!(error instanceof RefusedError)) throw error;
    output.error(error.code, error.message);
    return ExitCode.failed;
  } finally {
    down.abort(new Error("the agent ends"));
    clearInterval(timer);
    await orders.close();
  }
}

async function identityFor(
  args: Arguments,
  directory: string,
): Promise<{
  readonly identity: AgentIdentity;
  readonly enrollment: { readonly token: Uint8Array; readonly name: string } | undefined;
}> {
  const kept = await AgentIdentity.load(directory);
  const text = await codeText(args);
  if (text === undefined) {
    if (kept !== undefined) return { identity: kept, enrollment: undefined };
    throw usage(
      "this host is not enrolled: give --relay URL and --enroll CODE, which POST /v1/enrollments makes",
    );
  }
  const code = decodeEnrollmentCode(text);
  const url = (args.text("relay") ?? kept?.relay.url)?.replace(/\/+$/, "");
  if (url === undefined) throw usage("--relay is missing: at which relay is the code good?");
  parseRelayUrl(url);
  const host = hostname();
  const name = isAgentName(host) ? host : "host";
  const identity =
    kept ??
    AgentIdentity.generate({
      url,
      certificateHashes: code.certificateHashes,
      identity: code.relayIdentity,
    });
  if (kept === undefined) await identity.save(directory);
  return { identity, enrollment: { token: code.token, name } };
}

async function codeText(args: Arguments): Promise<string | undefined> {
  const [code, file] = [args.text("enroll"), args.text("enroll-file")];
  if (code !== undefined && file !== undefined) throw usage("give one code, not two");
  if (file !== undefined) return await readSecret(file, "--enroll-file");
  if (code === "-") return await readSecret("-", "--enroll");
  return code ?? peerEnvironment().enrollment;
}
