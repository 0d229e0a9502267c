/**
 * Where the relay's code runs, and what it was installed as.
 *
 * @module
 */
import { readFileSync } from "node:fs";

export type RuntimeName = "node" | "deno";

export function runtimeName(): RuntimeName {
  return "Deno" in globalThis ? "deno" : "node";
}

/** From package.json: two folders up in the repository, three in the compiled package. */
export function packageVersion(): string {
  for (const path of ["../../package.json", "../../../package.json"]) {
    try {
      const json: unknown = JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));
      if (typeof json === "object" && json !== null && "version" in json) {
        return String(json.version);
      }
    } catch {
      // Not at this depth.
    }
  }
  return "0.0.0";
}
