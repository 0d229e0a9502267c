/**
 * Which store is meant: the STORE of `memferry mount STORE`.
 *
 * @module
 */
import { MigrationError } from "../errors.ts";
import { parseSize } from "../cli/size.ts";

export type StoreSpec =
  | { readonly kind: "memory"; readonly bytes: number }
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "directory"; readonly path: string };

/** For `--help`. */
export const STORE_KINDS = "memory:SIZE, file:PATH, directory:PATH";

/** @throws MigrationError `USAGE` */
export function parseStore(text: string): StoreSpec {
  const [, kind, place = ""] = /^([a-z0-9]+):(.+)$/s.exec(text) ?? [];
  switch (kind) {
    case "memory": {
      const bytes = parseSize(place);
      if (bytes === undefined || bytes === 0) {
        throw usage(`memory:${place} has no size: write it as memory:256MiB`);
      }
      return { kind, bytes };
    }
    case "file":
    case "directory":
      return { kind, path: place };
    default:
      // The text may have a password in it.
      throw usage(`this is no store: use ${STORE_KINDS}`);
  }
}

function usage(message: string): MigrationError {
  return new MigrationError("USAGE", message);
}
