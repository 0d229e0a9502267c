/**
 * Two ssh servers with keys and configuration of their own, on the relay's node and on the seeder's.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { userInfo } from "node:os";

import { requireTool } from "../../support/requires.ts";
import type { NodeName, Scene } from "./scene.ts";

const PORT = 2222;
/** Where sshd goes without any right; it wants the folder to be there. */
const PRIVILEGE_FOLDER = "/run/sshd";
const POLLS = 100;

/** @returns the client's configuration file: `far` is the seeder's node, `jump` the relay's. */
export async function startSsh(scene: Scene): Promise<string> {
  const folder = await scene.stage.folder("ssh");
  chmodSync(folder, 0o700);
  const key = `${folder}/key`;
  const host = `${folder}/host`;
  for (const file of [key, host]) {
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", file]);
  }
  if (!existsSync(PRIVILEGE_FOLDER)) mkdirSync(PRIVILEGE_FOLDER, { mode: 0o755 });
  const nodes: NodeName[] = ["relay", "seeder"];
  for (const node of nodes) await serve(scene, node, folder);
  const config = `${folder}/client`;
  const shared = [
    `Port ${PORT}`,
    `User ${userInfo().username}`,
    `IdentityFile ${key}`,
    "IdentitiesOnly yes",
    "StrictHostKeyChecking no",
    "UserKnownHostsFile /dev/null",
    "LogLevel ERROR",
    "BatchMode yes",
  ];
  writeFileSync(
    config,
    [
      `Host jump\n  HostName ${scene.host("relay")}`,
      `Host far\n  HostName ${scene.host("seeder")}`,
      `Host *\n  ${shared.join("\n  ")}\n`,
    ].join("\n"),
  );
  await answers(scene, config);
  return config;
}

async function serve(scene: Scene, node: NodeName, folder: string): Promise<void> {
  const config = `${folder}/server-${node}`;
  writeFileSync(
    config,
    [
      `Port ${PORT}`,
      `HostKey ${folder}/host`,
      `AuthorizedKeysFile ${folder}/key.pub`,
      `PidFile none`,
      "StrictModes no",
      "PasswordAuthentication no",
      "PermitRootLogin yes",
      "UsePAM no",
      "Subsystem sftp internal-sftp",
      "",
    ].join("\n"),
  );
  const [command = "", ...within] = scene.lab.inside(node);
  const sshd = requireTool("sshd").path;
  scene.stage.start({
    name: `sshd on ${node}`,
    command,
    // In the foreground, and it must be called by its whole path.
    args: [...within, sshd, "-D", "-e", "-f", config],
    environment: scene.stage.environment(),
  });
}

async function answers(scene: Scene, config: string): Promise<void> {
  for (let left = POLLS; ; left--) {
    try {
      await scene.lab.exec("leecher", ["ssh", "-F", config, "-J", "jump", "far", "true"]);
      return;
    } catch (error) {
      if (left === 0) throw error;
      await sleep(100);
    }
  }
}
