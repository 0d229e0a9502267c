/**
 * Whether a relay would start with what it was told: files, certificate, ports, database. Every problem, not the first.
 *
 * Nothing is changed but a file that is written into the data directory and removed again.
 *
 * @module
 */
import { createSocket } from "node:dgram";
import { readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { X509Certificate } from "node:crypto";

import { checkDatabase } from "../db/database.ts";
import { systemCode } from "../errors.ts";
import { messageOf } from "../protocol/errors.ts";
import { holderOf } from "../runtime/directory-lock.ts";
import { loadSecretKey } from "../secret-box.ts";
import { checkedCertificate } from "../transport/certificate.ts";
import type { Address, RelayConfig } from "../config.ts";

export interface ConfigCheck {
  /** One line each, with the cure. */
  readonly problems: readonly string[];
  /** What was not looked at, and why. */
  readonly notes: readonly string[];
}

/** A descriptor for each connection, and those of the database and the process itself. */
const OPEN_FILES_MIN = 1_024;

export async function checkConfig(config: RelayConfig): Promise<ConfigCheck> {
  const notes: string[] = [];
  const holder = await holderOf(config.dataDir);
  const running = holder !== undefined;
  if (running) {
    notes.push(
      `${config.dataDir} is in use by a relay, process ${holder}: its ports and its embedded database were not tried`,
    );
  }
  const found = await Promise.all([
    checkDirectory(config.dataDir),
    checkCertificate(config),
    checkAcme(config),
    checkSecretKey(config),
    running ? [] : checkPorts(config),
    config.databaseUrl === undefined ? [] : checkPostgres(config.databaseUrl),
    checkPublicUrl(config),
    checkProcess(),
  ]);
  return { problems: found.flat(), notes };
}

async function checkDirectory(path: string): Promise<string[]> {
  // Made at the start if it is not there: then the first one above it that is must let us.
  let at = path;
  for (;;) {
    const found = await stat(at).catch((error: unknown) => systemCode(error) ?? messageOf(error));
    if (found === "ENOENT" && dirname(at) !== at) {
      at = dirname(at);
      continue;
    }
    if (typeof found !== "string" && !found.isDirectory()) {
      return [`--data: ${at} is not a directory: give another`];
    }
    const probe = join(at, `.memferry-check-${process.pid}`);
    try {
      await writeFile(probe, "", { flag: "wx", mode: 0o600 });
      await rm(probe);
      return [];
    } catch (error) {
      return [
        `--data: ${path} cannot be written (${systemCode(error) ?? messageOf(error)}): give a directory that this user may write`,
      ];
    }
  }
}

async function checkCertificate({ certificate, publicUrl }: RelayConfig): Promise<string[]> {
  if (certificate === undefined) return [];
  try {
    const loaded = await checkedCertificate(certificate);
    if (publicUrl === undefined) return [];
    const host = new URL(publicUrl).hostname.replace(/^\[|\]$/g, "");
    const leaf = new X509Certificate(loaded.certificatePem);
    const isFor = leaf.checkHost(host) ?? leaf.checkIP(host);
    return isFor === undefined
      ? [
          `--public-url: the certificate is not for ${host} but for ${leaf.subjectAltName ?? "nothing"}: give one of its names`,
        ]
      : [];
  } catch (error) {
    return [`--certificate: ${messageOf(error)}`];
  }
}

async function checkAcme({ acme, publicUrl }: RelayConfig): Promise<string[]> {
  if (acme === undefined) return [];
  const problems: string[] = [];
  if (acme.caFile !== undefined) {
    try {
      const pem = await readFile(acme.caFile, "utf8");
      new X509Certificate(pem);
    } catch (error) {
      problems.push(
        `--acme-ca-file: ${acme.caFile} cannot be used (${systemCode(error) ?? messageOf(error)}): give certificates in PEM form`,
      );
    }
  }
  if (publicUrl !== undefined) {
    const { hostname } = new URL(publicUrl);
    if (!acme.domains.includes(hostname)) {
      problems.push(
        `--public-url: ${hostname} is not among --acme-domains: add it there, or no peer will trust the certificate`,
      );
    }
  }
  return problems;
}

async function checkSecretKey({ dataDir, secretKeyFile }: RelayConfig): Promise<string[]> {
  if (secretKeyFile === undefined) return [];
  try {
    await loadSecretKey(dataDir, secretKeyFile);
    return [];
  } catch (error) {
    return [messageOf(error)];
  }
}

async function checkPorts(config: RelayConfig): Promise<string[]> {
  const { listen, dashboard, discoveryPorts, acme, webTransport } = config;
  const listenOn = { ...listen, host: listen.host === "" ? "::" : listen.host };
  const tried = [tryTcp("--listen", listenOn)];
  if (webTransport) tried.push(tryUdp("--listen", listenOn));
  if (dashboard !== undefined) tried.push(tryTcp("--dashboard", dashboard));
  for (const port of discoveryPorts ?? []) {
    tried.push(tryUdp("--discovery-ports", { host: listenOn.host, port }));
  }
  if (acme !== undefined) tried.push(tryTcp("--acme-challenge", acme.challenge));
  return (await Promise.all(tried)).filter((problem) => problem !== undefined);
}

function tryTcp(flag: string, { host, port }: Address): Promise<string | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", (error) => resolve(portProblem(flag, "TCP", { host, port }, error)));
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(undefined)));
  });
}

function tryUdp(flag: string, { host, port }: Address): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket({ type: host.includes(":") ? "udp6" : "udp4" });
    socket.once("error", (error) => {
      socket.close();
      resolve(portProblem(flag, "UDP", { host, port }, error));
    });
    socket.bind({ address: host, port, exclusive: true }, () => {
      socket.close(() => resolve(undefined));
    });
  });
}

function portProblem(flag: string, what: string, { host, port }: Address, error: Error): string {
  const code = systemCode(error) ?? error.message;
  return code === "EADDRINUSE"
    ? `${flag}: ${what} port ${port} is taken: stop the program that has it, or give another`
    : `${flag}: cannot listen on ${host}:${port}, ${what} (${code}): give an address of this host and a port that this user may have`;
}

async function checkPostgres(url: string): Promise<string[]> {
  try {
    await checkDatabase(url);
    return [];
  } catch (error) {
    return [`--database-url: ${messageOf(error)}`];
  }
}

async function checkPublicUrl({ publicUrl, listen }: RelayConfig): Promise<string[]> {
  if (publicUrl === undefined) {
    return ["", "0.0.0.0", "::"].includes(listen.host)
      ? [
          "--public-url: tickets would send peers to this host's own name, as it listens on every address: say how they reach it",
        ]
      : [];
  }
  const host = new URL(publicUrl).hostname.replace(/^\[|\]$/g, "");
  try {
    const { lookup } = await import("node:dns/promises");
    await lookup(host);
    return [];
  } catch (error) {
    return [
      `--public-url: ${host} cannot be resolved here (${systemCode(error) ?? messageOf(error)}): correct it, or its entry in the name service`,
    ];
  }
}

async function checkProcess(): Promise<string[]> {
  // Only where the system tells.
  const limits = await readFile("/proc/self/limits", "utf8").catch(() => "");
  const openFiles = Number(
    /^Max open files\s+(\d+)/m.exec(limits)?.[1] ?? Number.POSITIVE_INFINITY,
  );
  return openFiles < OPEN_FILES_MIN
    ? [
        `this process may open ${openFiles} files, and each connection is one: raise it with \`ulimit -n\` or LimitNOFILE=`,
      ]
    : [];
}
