/**
 * `memferry doctor`: what works from this host, and what to do about what does not.
 *
 * @module
 */
import { peerEnvironment, readUserConfig } from "../config.ts";
import { probeHost } from "../doctor/host-probes.ts";
import { probeNetwork, type RelayToProbe } from "../doctor/network-probes.ts";
import { rows, table } from "../doctor/rows.ts";
import type { Arguments, CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import type { Output } from "./output.ts";
import { readSecret, RELAY_OPTIONS } from "./relay-access.ts";

export const doctorSpec: CommandSpec = {
  name: "doctor",
  usage: "[options]",
  summary: "Tells what works between this host and the relay, and what to do about what does not.",
  positionalsMax: 0,
  options: RELAY_OPTIONS,
  examples: [
    ["memferry doctor", "this host, and the configured relay"],
    ["memferry doctor --relay https://relay.example:8443", "a relay that is not configured yet"],
    ["memferry doctor --json", "the same for a program, one row a line"],
  ],
  notes: ["Exit status: 0 if a migration can work, warnings or not; 1 if it cannot; 2 usage."],
};

/** @throws MigrationError `USAGE`, LinkError `ADDRESS_INVALID` */
export async function doctor(args: Arguments, output: Output): Promise<ExitCodeValue> {
  const relay = await relayToProbe(args);
  const [host, network] = await Promise.all([
    probeHost(peerEnvironment().stateDirectory),
    relay === undefined ? undefined : probeNetwork(relay),
  ]);
  const all = rows({ host, network });
  output.result(`memferry doctor${relay === undefined ? "" : `: ${relay.url}`}`);
  for (const line of table(all)) output.result(line);
  for (const { cure, ...row } of all) output.event({ event: "check", ...row, cure: cure ?? null });
  const count = (status: string): number => all.filter((row) => row.status === status).length;
  const [failures, warnings] = [count("fail"), count("warn")];
  output.event({ event: "doctor", works: failures === 0, failures, warnings });
  const verdict =
    failures === 0
      ? `A migration can work from here${warnings === 0 ? "" : `; ${warnings} to look at`}.`
      : `No migration can work from here until ${failures === 1 ? "what failed is" : `${failures} things are`} cured.`;
  output.result(verdict);
  return failures === 0 ? ExitCode.done : ExitCode.failed;
}

/** Named, or configured; unlike elsewhere without a key, which most of what is looked at does not need. */
async function relayToProbe(args: Arguments): Promise<RelayToProbe | undefined> {
  const environment = peerEnvironment();
  const config = await readUserConfig(environment.configFile);
  const url = args.text("relay")?.replace(/\/+$/, "") ?? config.default;
  const keyFile = args.text("key-file");
  if (url === undefined) return undefined;
  const entry = config.relays.find((relay) => relay.url === url);
  const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"));
  return {
    url,
    certificateHashes: (entry?.certificateHashes ?? []).map(bytes),
    relayIdentity: entry?.identity === undefined ? undefined : bytes(entry.identity),
    key:
      keyFile === undefined
        ? (environment.key ?? entry?.key)
        : await readSecret(keyFile, "--key-file"),
  };
}
