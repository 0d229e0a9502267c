/**
 * The console: what Vite built from web/, held in memory, so that a request can name no file of ours.
 *
 * @module
 */
import { readdir, readFile } from "node:fs/promises";
import { extname, join, relative, sep } from "node:path";

export interface ConsoleFile {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly contentType: string;
  /** Whether its name changes when its content does. */
  readonly immutable: boolean;
}

/** By path, `/` included; empty if the console was not built. */
export type Console = ReadonlyMap<string, ConsoleFile>;

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".ico": "image/x-icon",
  ".js": "text/javascript; charset=utf-8",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".txt": "text/plain; charset=utf-8",
  ".woff2": "font/woff2",
};

/** Reads the first of `folders` that is there. */
export async function loadConsole(folders: readonly string[]): Promise<Console> {
  for (const folder of folders) {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(
      // Not built, or not part of this installation.
      () => undefined,
    );
    if (entries === undefined) continue;
    const files = new Map<string, ConsoleFile>();
    for (const entry of entries.filter((found) => found.isFile())) {
      const path = join(entry.parentPath, entry.name);
      const contentType = CONTENT_TYPES[extname(entry.name)];
      if (contentType === undefined) continue;
      const url = `/${relative(folder, path).split(sep).join("/")}`;
      const bytes = new Uint8Array(await readFile(path));
      const file = { bytes, contentType, immutable: url.startsWith("/assets/") };
      files.set(url, file);
      if (url === "/index.html") files.set("/", file);
    }
    return files;
  }
  return new Map();
}

export const CONSOLE_MISSING = `memferry relay

This is a memferry relay. Its console was not built: run \`npm run build:web\` and start the relay again.

The API is at /v1, its description at /openapi.json, and its health at /livez and /readyz.
`;
