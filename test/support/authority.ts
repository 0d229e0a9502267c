/**
 * An authority of a test's own that issues certificates by ACME: Let's Encrypt's test server, with a name service that
 * finds every name on this host.
 *
 * @module
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { request } from "node:https";

import { ensureCertificate } from "../../relay/transport/certificate.ts";
import { requireTool } from "./requires.ts";

const PATIENCE_MS = 15_000;

export interface Authority extends AsyncDisposable {
  readonly directoryUrl: string;
  /** What its own API is trusted by. */
  readonly caFile: string;
  /** Where it asks for proofs. */
  readonly challengePort: number;
}

/** @param directory A folder of the test's. */
export async function startAuthority(directory: string): Promise<Authority> {
  const api = await ensureCertificate({ directory: join(directory, "api"), hosts: ["127.0.0.1"] });
  const [port, management, challengePort, tlsPort, dns, dnsManagement] = await freePorts(6);
  const config = join(directory, "authority.json");
  await writeFile(
    config,
    JSON.stringify({
      pebble: {
        listenAddress: `127.0.0.1:${port}`,
        managementListenAddress: `127.0.0.1:${management}`,
        certificate: api.certificatePath,
        privateKey: api.privateKeyPath,
        httpPort: challengePort,
        tlsPort,
        ocspResponderURL: "",
        externalAccountBindingRequired: false,
      },
    }),
  );
  const children: ChildProcess[] = [];
  const run = (tool: "pebble" | "pebble-challtestsrv", args: readonly string[]): void => {
    const { available, path, skipReason } = requireTool(tool);
    if (!available) throw new Error(skipReason);
    const env = { ...process.env, PEBBLE_VA_NOSLEEP: "1" };
    children.push(spawn(path, args, { stdio: "ignore", env }));
  };
  const stop = async (): Promise<void> => {
    for (const child of children.splice(0)) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const gone = once(child, "exit");
      child.kill("SIGKILL");
      await gone;
    }
  };
  run("pebble-challtestsrv", [
    "-defaultIPv4=127.0.0.1",
    "-defaultIPv6=",
    `-dns01=127.0.0.1:${dns}`,
    `-management=127.0.0.1:${dnsManagement}`,
    "-http01=",
    "-https01=",
    "-tlsalpn01=",
  ]);
  run("pebble", ["-config", config, "-dnsserver", `127.0.0.1:${dns}`]);
  try {
    await answers(Number(port));
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    directoryUrl: `https://127.0.0.1:${port}/dir`,
    caFile: api.certificatePath,
    challengePort: Number(challengePort),
    [Symbol.asyncDispose]: stop,
  };
}

async function answers(port: number): Promise<void> {
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    const ok = await new Promise<boolean>((resolve) => {
      request({ host: "127.0.0.1", port, path: "/dir", rejectUnauthorized: false }, (response) => {
        response.resume();
        resolve(response.statusCode === 200);
      })
        .on("error", () => resolve(false))
        .end();
    });
    if (ok) return;
    if (performance.now() > until) throw new Error("the authority does not answer");
    await new Promise((resolve) => {
      setTimeout(resolve, 50);
    });
  }
}

async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  const ports: number[] = [];
  for (const server of servers) {
    if (!server.listening) await once(server, "listening");
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port to be had");
    ports.push(address.port);
  }
  for (const server of servers) {
    server.close();
    await once(server, "close");
  }
  return ports;
}
