/**
 * A region shown as `--export` shows it, in this process.
 *
 * @module
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { NativeRegion } from "../../native/index.ts";
import { Exports } from "../../peer/export/exports.ts";
import { parseExport } from "../../peer/export/spec.ts";
import type { ShownRegion } from "../compliance/export.ts";
import type { ExportUser } from "./export-users.ts";

export interface ShowOptions {
  /** The text after `--export`; `folder` is the test's own. */
  readonly spec: (folder: string) => string;
  /** A program that uses what is at `at`. */
  readonly user: (at: string, region: NativeRegion) => ExportUser | Promise<ExportUser>;
}

export async function showRegion(
  region: NativeRegion,
  { spec, user }: ShowOptions,
): Promise<ShownRegion> {
  const folder = mkdtempSync(path.join(tmpdir(), "memferry-shown-"));
  const exports = new Exports();
  const close = async (): Promise<void> => {
    await exports.close();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const parsed = parseExport(spec(folder));
    exports.open([parsed], { holdings: { stores: {}, mounts: {} }, session: folder });
    const place = exports.add(parsed, "region", region);
    exports.serve();
    await exports.attach();
    return {
      place: {
        flush: () => place.flush("region"),
        invalidate: () => place.invalidate("region"),
      },
      user: async () => await user(place.pathOf("region"), region),
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
