/** Regions to export, near and far, and the programs of others that judge them. */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

import { onTestFinished } from "vitest";

import type { NativeRegion } from "../../native/index.ts";
import {
  CHUNK,
  contentOf,
  emptyRegion,
  filledRegion,
  image,
  type FarRegion,
} from "../support/regions.ts";

export { CHUNK, contentOf, image };
const execute = promisify(execFile);

export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "memferry-exports-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** What a program said; its error output is part of what is thrown. */
export async function run(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const { stdout } = await execute(program, args, {
    maxBuffer: 64 << 20,
    env: { ...process.env, ...env },
  });
  return stdout;
}

/** A region that has everything. */
export async function nearRegion(content: Buffer): Promise<NativeRegion> {
  const region = await filledRegion(content);
  onTestFinished(() => region.close());
  return region;
}

/** A region whose chunks are elsewhere: each arrives a while after somebody asked for it. */
export function farRegion(content: Buffer): FarRegion {
  const far = emptyRegion(content);
  onTestFinished(() => far.region.close());
  return far;
}
