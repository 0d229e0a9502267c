/**
 * Loads the project's sources with some of their text replaced: smaller limits, so that a small region meets what a
 * large one would, and deliberate mistakes, which the simulation must find.
 *
 * @module
 */
import { registerHooks } from "node:module";

export interface Replacement {
  /** From the repository's root. */
  readonly file: string;
  /** Stands there exactly once. */
  readonly find: string;
  readonly replace: string;
}

const root = new URL("../../", import.meta.url).href;

/** A region of some KiB has many batches, pages, segments and windows. */
const SMALL: readonly Replacement[] = [
  limit("relay/protocol/limits.ts", "STREAM_BUFFER_BYTES_MAX", "1024 * 1024", "1024"),
  limit("relay/protocol/limits.ts", "CHUNK_BYTES_MIN", "4 * 1024", "64"),
  limit("relay/protocol/limits.ts", "INDEX_SEGMENT_CHUNKS", "1_024", "8"),
  limit("peer/migration/limits.ts", "BATCH_BYTES", "512 * 1024", "1024"),
  limit("peer/migration/limits.ts", "BITMAP_PAGE_BYTES", "8 * 1024", "2"),
  limit("peer/migration/limits.ts", "FAULTS_PER_MESSAGE_MAX", "4_096", "4"),
  limit("peer/migration/limits.ts", "WINDOW_BYTES_MIN", "16 * 1024 * 1024", "6 * 1024"),
  limit("peer/migration/limits.ts", "WINDOW_BYTES_START", "24 * 1024 * 1024", "8 * 1024"),
  limit("peer/migration/limits.ts", "WINDOW_BYTES_MAX", "96 * 1024 * 1024", "16 * 1024"),
  limit("peer/migration/limits.ts", "KNOWS_CHUNKS_MAX", "1_024", "8"),
  limit("peer/migration/limits.ts", "PART_BYTES", "8 * 1024", "24"),
  limit("peer/migration/limits.ts", "PARTED_BYTES_MAX", "8 * 1024 * 1024", "1024"),
  limit("peer/migration/limits.ts", "EPOCHS_RESERVED", "4_096", "3"),
];

function limit(file: string, name: string, is: string, becomes: string): Replacement {
  const start = `export const ${name} = `;
  return { file, find: `${start}${is};`, replace: `${start}${becomes};` };
}

/** From now on, in this process. @throws Error, at the load of a file in which a text is not found exactly once */
export function loadVariant(mutations: readonly Replacement[]): {
  readonly missed: () => string[];
} {
  const byFile = new Map<string, Replacement[]>();
  for (const replacement of [...SMALL, ...mutations]) {
    const list = byFile.get(replacement.file) ?? [];
    list.push(replacement);
    byFile.set(replacement.file, list);
  }
  const unloaded = new Set(byFile.keys());
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context);
      const path = url.startsWith(root) ? url.slice(root.length) : "";
      const replacements = byFile.get(path);
      if (replacements === undefined || loaded.source == null) return loaded;
      unloaded.delete(path);
      let text =
        typeof loaded.source === "string"
          ? loaded.source
          : Buffer.from(loaded.source as Uint8Array).toString("utf8");
      for (const { find, replace } of replacements) {
        const parts = text.split(find);
        if (parts.length !== 2) {
          throw new Error(`${path}: found ${parts.length - 1} times, not once: ${find}`);
        }
        text = parts.join(replace);
      }
      return { ...loaded, source: text };
    },
  });
  return { missed: () => [...unloaded] };
}
