/** The script of docs/examples/rest.md, as it stands there: two agents, one relay on PostgreSQL, curl. */
import { chmod, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { expect, test } from "vitest";

import { startPostgres } from "../support/postgres.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { makeFile } from "./files.ts";
import { Stage, text } from "./harness.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const DOCUMENT = path.join(ROOT, "docs/examples/rest.md");

test("a region moves by curl alone, as docs/examples/rest.md says", async (ctx) => {
  skipUnless(ctx, requireTool("postgres"), requireTool("curl"), requireTool("jq"));
  const document = await readFile(DOCUMENT, "utf8");
  const blocks = [...document.matchAll(/^```bash\n(.*?)^```$/gms)].map(([, block]) => block);
  expect(blocks.length).toBeGreaterThan(6);

  await using postgres = await startPostgres();
  await using stage = await Stage.open();
  const relay = await stage.relay({
    databaseUrl: await postgres.createDatabase(),
    args: ["--dashboard", "127.0.0.1:0"],
  });
  const folder = await stage.folder("hosts");
  await makeFile(path.join(folder, "db.img"), 5 * 1024 * 1024 + 4_096);
  const bin = await stage.folder("bin");
  const command = path.join(bin, "memferry");
  await writeFile(
    command,
    `#!/bin/sh\nexec '${process.execPath}' '${path.join(ROOT, "peer/main.ts")}' "$@"\n`,
  );
  await chmod(command, 0o755);
  // What a block leaves undone fails at once, and nothing that it started stays.
  const script = `set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n${blocks.join("\n")}`;
  const run = stage.start({
    name: "the script",
    command: "bash",
    args: ["-c", `cd '${folder}'\n${script}`],
    environment: stage.environment({
      PATH: `${bin}:${process.env["PATH"] ?? ""}`,
      API: text(relay.ready, "dashboard"),
      RELAY: relay.url,
      KEY: relay.key,
    }),
  });
  await run.expectExit(0, 100_000);
  expect(run.stdout).toContain('"runsAt": "leecher"');
  expect(run.stdout.trim().endsWith("moved")).toBe(true);
});
