/**
 * What others take for the same bytes over the same network.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import type { Program } from "../../e2e/program.ts";
import { requireTool, type ToolName } from "../../support/requires.ts";
import { transfer } from "../../support/wan/flow.ts";
import { figures, type Figures, type Job } from "./row.ts";
import type { NodeName, Scene } from "./scene.ts";
import { startSsh } from "./ssh.ts";

const NODE_TCP = fileURLToPath(new URL("node-tcp.ts", import.meta.url));
/** A refused connection takes no time of its own, and neither does finding out that nobody refuses any more. */
const POLLS = 200;
const POLL_MS = 50;

export interface Other {
  readonly needs: readonly ToolName[];
  readonly run: (job: Job) => Promise<Figures>;
}

/** @returns why this one cannot run, if it cannot */
export function missing({ needs }: Other): string | undefined {
  return needs.map(requireTool).find(({ available }) => !available)?.skipReason;
}

export function others(scene: Scene): Readonly<Record<string, Other>> {
  let nextPort = 20_000;
  let config: Promise<string> | undefined;
  const ssh = async (): Promise<string> => (config ??= startSsh(scene));
  return {
    // Straight from peer to peer, as whoever has an address does it.
    "tcp-cubic": {
      needs: ["cc"],
      run: async (job) => {
        const { sender } = await transfer(scene.lab, {
          from: "seeder",
          to: "leecher",
          host: scene.host("leecher"),
          port: nextPort++,
          bytes: job.bytes,
          congestionControl: "cubic",
          limitMs: job.limitMs,
        });
        const cpuPerGib = { sender: sender.cpuSeconds / (job.bytes / 2 ** 30) };
        return figures(job, sender.seconds, { cpuPerGib });
      },
    },
    "node-tcp": {
      needs: ["cc"],
      run: async (job) => throughNodePipe(scene, job, nextPort++),
    },
    "scp -J": {
      needs: ["sshd", "scp"],
      run: async (job) => {
        const argv = ["scp", "-q", "-F", await ssh(), "-J", "jump", `far:${scene.sourceOf(job)}`];
        return copy(scene, job, argv);
      },
    },
    rsync: {
      needs: ["sshd", "rsync"],
      run: async (job) => {
        const argv = ["rsync", "-e", `ssh -F ${await ssh()}`, `far:${scene.sourceOf(job)}`];
        return copy(scene, job, argv);
      },
    },
    "nbdcopy x4": {
      needs: ["nbdcopy", "nbdkit"],
      run: async (job) => {
        const port = nextPort++;
        const argv = ["nbdkit", "-f", "-p", String(port), "-r", "file", scene.sourceOf(job)];
        const server = start(scene, "seeder", "nbdkit", argv);
        const uri = `nbd://${scene.host("seeder")}:${port}`;
        try {
          await answering(scene, server, ["nbdinfo", "--size", uri]);
          return await copy(scene, job, ["nbdcopy", "--connections=4", uri]);
        } finally {
          await server.stop();
        }
      },
    },
  };
}

/** Runs a command on the leecher's node that copies to the path that is its last argument. */
async function copy(scene: Scene, job: Job, argv: readonly string[]): Promise<Figures> {
  const to = scene.file("copy");
  const counted = scene.counted("leecher");
  const [command, ...args] = [...counted.within, ...argv, to];
  const startedAtMs = performance.now();
  const program = scene.stage.start({
    name: argv[0] ?? "",
    command,
    args,
    environment: scene.stage.environment(),
  });
  try {
    await program.expectExit(0, job.limitMs);
    const seconds = (performance.now() - startedAtMs) / 1000;
    execFileSync("cmp", [scene.sourceOf(job), to]);
    const perGib = (await counted.cpuSeconds()) / (job.bytes / 2 ** 30);
    return figures(job, seconds, { cpuPerGib: { leecher: perGib } });
  } finally {
    await program.stop();
    rmSync(to, { force: true });
  }
}

async function throughNodePipe(scene: Scene, job: Job, port: number): Promise<Figures> {
  const nodes = { receiver: "leecher", relay: "relay", sender: "seeder" } as const;
  const counted = {
    receiver: scene.counted(nodes.receiver),
    relay: scene.counted(nodes.relay),
    sender: scene.counted(nodes.sender),
  };
  const run = (role: keyof typeof nodes, ...args: readonly (string | number)[]): Program => {
    const [command, ...rest] = [...counted[role].within, process.execPath, NODE_TCP];
    return scene.stage.start({
      name: `the bare ${role}`,
      command,
      args: [...rest, ...args.map(String)],
      environment: scene.stage.environment(),
    });
  };
  const receiver = run("receiver", "receive", port);
  const relay = run("relay", "pipe", port, scene.host("leecher"), port);
  await Promise.all([receiver.waitFor("ready"), relay.waitFor("ready")]);
  const startedAtMs = performance.now();
  const sender = run("sender", "send", scene.host("relay"), port, job.bytes);
  try {
    for (const program of [sender, relay, receiver]) await program.expectExit(0, job.limitMs);
    const seconds = (performance.now() - startedAtMs) / 1000;
    const perGib = async (role: keyof typeof nodes): Promise<number> =>
      (await counted[role].cpuSeconds()) / (job.bytes / 2 ** 30);
    const cpuPerGib = {
      sender: await perGib("sender"),
      receiver: await perGib("receiver"),
      relay: await perGib("relay"),
    };
    return figures(job, seconds, { cpuPerGib });
  } finally {
    for (const program of [sender, relay, receiver]) await program.stop();
  }
}

function start(scene: Scene, node: NodeName, name: string, argv: readonly string[]): Program {
  const [command = "", ...args] = [...scene.lab.inside(node), ...argv];
  return scene.stage.start({ name, command, args, environment: scene.stage.environment() });
}

/** Waits until a server answers. @throws if it ends before */
async function answering(scene: Scene, server: Program, argv: readonly string[]): Promise<void> {
  for (let left = POLLS; ; left--) {
    try {
      await scene.lab.exec("leecher", argv);
      return;
    } catch (error) {
      if (left === 0 || server.exit !== undefined) throw error;
      await sleep(POLL_MS);
    }
  }
}
