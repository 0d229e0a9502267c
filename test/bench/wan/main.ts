/**
 * How long it takes to move a region over a wide area network, over the least that the rate allows; and others beside it.
 *
 *     npm run -s bench:wan -- [--json] [--bytes 1GiB] [--mbit 1000] [--rtt 0,10,50,100] [--loss 0,0.1,1]
 *         [--links auto,relayed,websocket,webtransport,direct] [--only memferry,tcp-cubic,node-tcp,scp,rsync,nbdcopy]
 *         [--relay-at middle|apart] [--tcp-buffer BYTES] [--limit SECONDS]
 *
 * `--rtt` is in milliseconds and between the peers; the relay is in the middle, so that the way by it is as long, or
 * `apart`: as far from each as they are from each other. `--loss` is in percent, and falls on what each node sends: on
 * the way by the relay twice. Where there is loss the others move a thirty-second of the bytes: it is their rate that
 * counts, and one connection may need hours for all. A table goes to standard error, or with `--json` the object to
 * standard output.
 *
 * @module
 */
import { availableParallelism, release } from "node:os";
import { parseArgs } from "node:util";

import { parseSize } from "../../../peer/cli/size.ts";
import { requireWan } from "../../support/requires.ts";
import { LINKS, migrate } from "./memferry.ts";
import { missing, others } from "./others.ts";
import { heading, lineOf, type Conditions, type Figures, type Row } from "./row.ts";
import { Scene } from "./scene.ts";

/** How much less the others move where there is loss. */
const LOSSY_SHARE = 32;

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    bytes: { type: "string", default: "1GiB" },
    mbit: { type: "string", default: "1000" },
    rtt: { type: "string", default: "0,10,50,100" },
    loss: { type: "string", default: "0,0.1,1" },
    links: { type: "string", default: LINKS.join() },
    only: { type: "string" },
    "relay-at": { type: "string", default: "middle" },
    "tcp-buffer": { type: "string" },
    limit: { type: "string", default: "300" },
  },
});

const needed = requireWan();
if (!needed.available) {
  console.error(`skipped: bench:wan: ${needed.skipReason}`);
  if (values.json) console.log(JSON.stringify({ rows: [], skipped: needed.skipReason }));
  process.exit(0);
}
await main();

async function main(): Promise<void> {
  const bytes = parseSize(values.bytes);
  if (bytes === undefined) throw new Error(`--bytes ${values.bytes}: a size such as 256MiB`);
  const [mbit, limitMs] = [numberOf("mbit"), numberOf("limit") * 1000];
  const relayAt = oneOf("relay-at", values["relay-at"], ["middle", "apart"]);
  const links = values.links.split(",").map((link) => oneOf("links", link, LINKS));
  const conditions = numbersOf("loss").flatMap((percent) =>
    numbersOf("rtt").map((rttMs): Conditions => ({ rttMs, lossRatio: percent / 100 })),
  );
  await using scene = await Scene.open({
    bytes,
    mbit,
    relayAt,
    ...(values["tcp-buffer"] === undefined ? {} : { tcpBufferBytes: numberOf("tcp-buffer") }),
  });
  const within = scene.lab.inside("relay");
  const relay = await scene.stage.relay({ within, args: ["--listen", `${scene.host("relay")}:0`] });
  const all = others(scene);
  const chosen = values.only?.split(",");
  const wanted = (name: string): boolean =>
    chosen === undefined || chosen.some((each) => name.startsWith(each));
  const rows: Row[] = [];
  const measure = async (row: Row, take: () => Promise<Figures>): Promise<void> => {
    const done: Row =
      row.skipped === undefined
        ? { ...row, ...(await take().then((got) => ({ figures: got }), failed)) }
        : row;
    rows.push(done);
    if (!values.json) console.error(lineOf(done));
  };
  const congestionControl = await scene.congestionControl();
  if (!values.json) {
    console.error(`${mbit} Mbit/s, TCP by ${congestionControl}, the relay ${relayAt}`);
    console.error(heading());
  }
  for (const each of conditions) {
    await scene.apply(each);
    for (const link of wanted("memferry") ? links : []) {
      const row = { ...each, what: `memferry ${link}` };
      await measure(row, async () =>
        migrate(scene, relay, link, { ...each, bytes, mbit, limitMs }),
      );
    }
    for (const [name, other] of Object.entries(all).filter(([key]) => wanted(key))) {
      const skipped = missing(other);
      const share = each.lossRatio > 0 ? LOSSY_SHARE : 1;
      const job = { ...each, bytes: Math.ceil(bytes / share), mbit, limitMs };
      const row = { ...each, what: name, ...(skipped === undefined ? {} : { skipped }) };
      await measure(row, async () => other.run(job));
    }
  }
  if (!values.json) return;
  const machine = { node: process.version, kernel: release(), cores: availableParallelism() };
  console.log(JSON.stringify({ ...machine, congestionControl, mbit, bytes, relayAt, rows }));
}

function failed(error: unknown): { skipped: string } {
  const text = error instanceof Error ? error.message : String(error);
  return { skipped: text.split("\n")[0] ?? text };
}

function numbersOf(name: "rtt" | "loss"): number[] {
  return values[name].split(",").map((text) => number(name, text));
}

function numberOf(name: "mbit" | "limit" | "tcp-buffer"): number {
  return number(name, values[name] ?? "");
}

function number(name: string, text: string): number {
  const value = Number(text);
  if (text !== "" && value >= 0) return value;
  throw new Error(`--${name} ${text}: a number, 0 or more`);
}

function oneOf<const T extends string>(name: string, text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found === undefined) throw new Error(`--${name} ${text}: one of ${choices.join(", ")}`);
  return found;
}
