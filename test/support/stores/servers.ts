/**
 * The real servers of stores: Redis from the system's packages, an S3 gateway built by Go.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { findProgram } from "../programs.mjs";
import { ServerProcess } from "./server.ts";

const GATEWAY = "github.com/versity/versitygw/cmd/versitygw@v1.8.0";
const BUILD_MS = 15 * 60_000;
export const REDIS_PASSWORD = "not-so-secret";
export const S3_KEYS = { AWS_ACCESS_KEY_ID: "tester", AWS_SECRET_ACCESS_KEY: "also-not-secret" };

export interface RunningServer {
  readonly server: ServerProcess;
  readonly folder: string;
  close(): Promise<void>;
}

export const redisSkip =
  found("redis-server") === undefined
    ? "needs redis-server: apt-get install -y redis-server"
    : undefined;

export async function startRedis(args: readonly string[] = []): Promise<RunningServer> {
  return await inFolder("redis", (folder) =>
    ServerProcess.start((port) => [
      found("redis-server") ?? "",
      "--port",
      String(port),
      "--bind",
      "127.0.0.1",
      "--dir",
      folder,
      "--requirepass",
      REDIS_PASSWORD,
      "--appendonly",
      "yes",
      "--appendfsync",
      "everysec",
      "--save",
      "",
      ...args,
    ]),
  );
}

/** Why there is no S3 server; builds it if Go is at hand. */
export function s3Skip(): string | undefined {
  try {
    gateway();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message.split("\n")[0] : String(error);
  }
}

export async function startS3(): Promise<RunningServer> {
  return await inFolder("s3", (folder) => {
    mkdirSync(path.join(folder, "data/bucket"), { recursive: true });
    mkdirSync(path.join(folder, "meta"));
    return ServerProcess.start(
      (port) => [
        gateway(),
        "--port",
        `127.0.0.1:${port}`,
        "--quiet",
        "--keep-alive",
        "--access",
        S3_KEYS.AWS_ACCESS_KEY_ID,
        "--secret",
        S3_KEYS.AWS_SECRET_ACCESS_KEY,
        "posix",
        "--sidecar",
        path.join(folder, "meta"),
        path.join(folder, "data"),
      ],
      { TMPDIR: folder },
    );
  });
}

async function inFolder(
  name: string,
  start: (folder: string) => Promise<ServerProcess>,
): Promise<RunningServer> {
  const folder = mkdtempSync(path.join(tmpdir(), `memferry-${name}-`));
  try {
    const server = await start(folder);
    const close = async (): Promise<void> => {
      await server.close();
      rmSync(folder, { recursive: true, force: true });
    };
    return { server, folder, close };
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

function gateway(): string {
  const bin = path.resolve("test/.cache/bin");
  const program = path.join(bin, "versitygw");
  if (existsSync(program)) return program;
  const go = found("go");
  if (go === undefined) throw new Error("no S3 server: it is built by Go, which is not here");
  execFileSync(go, ["install", GATEWAY], {
    env: { ...process.env, GOBIN: bin, GOFLAGS: "-trimpath" },
    stdio: ["ignore", "ignore", "pipe"],
    timeout: BUILD_MS,
  });
  return program;
}

function found(name: string): string | undefined {
  const program = findProgram(name);
  return program === "" ? undefined : program;
}

/** For the name of what is skipped. */
export function because(skipReason: string | undefined): string {
  return skipReason === undefined ? "" : ` (skipped: ${skipReason})`;
}
