/**
 * The package as a user installs it, and the programs of docs/library.md, compiled against its types and run.
 */
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findProgram } from "../support/programs.mjs";
import { requireFuse, requireUffd, skipUnless } from "../support/requires.ts";
import { denoBinary } from "../../peer/demo/deno-relay.ts";
import { eventually, Stage } from "./harness.ts";
import type { Program } from "./program.ts";

const ROOT = path.join(import.meta.dirname, "../..");
const PACK_MS = 110_000;

let stage: Stage;
let app: string;

/** Blocks of code that a page says are programs, by their names. */
function programsOf(page: string): Map<string, string> {
  const text = readFileSync(path.join(ROOT, page), "utf8");
  const found = text.matchAll(/<!-- run: ([\w.-]+) -->\n\n```ts\n(.*?)```/gs);
  return new Map([...found].map(([, name = "", code = ""]) => [name, code]));
}

function run(command: string, args: readonly string[], cwd: string): string {
  try {
    return execFileSync(command, args, {
      cwd,
      encoding: "utf8",
      timeout: PACK_MS,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        PATH: `${path.join(ROOT, "node_modules/.bin")}:${process.env["PATH"]}`,
      },
    });
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    throw new Error(`${command} ${args.join(" ")} failed:\n${stdout ?? ""}${stderr ?? ""}`, {
      cause: error,
    });
  }
}

/** As `npm install memferry` leaves it, without a registry: dependencies are links to ours. */
function install(): void {
  const modules = path.join(app, "node_modules");
  mkdirSync(modules, { recursive: true });
  for (const name of readdirSync(path.join(ROOT, "node_modules"))) {
    if (name.startsWith(".")) continue;
    symlinkSync(path.join(ROOT, "node_modules", name), path.join(modules, name));
  }
  const packed = stage.file("packed");
  mkdirSync(packed);
  run("npm", ["pack", "--pack-destination", packed], ROOT);
  const [tarball = ""] = readdirSync(packed);
  run("tar", ["-xzf", path.join(packed, tarball), "-C", packed], app);
  cpSync(path.join(packed, "package"), path.join(modules, "memferry"), { recursive: true });
  // The addon is a package of its own, by platform.
  const { platform, arch } = process;
  const native = path.join(modules, `@memferry/native-${platform}-${arch}-glibc`);
  mkdirSync(native, { recursive: true });
  cpSync(path.join(ROOT, "native/build/memferry.node"), path.join(native, "memferry.node"));
  writeFileSync(
    path.join(native, "package.json"),
    JSON.stringify({ name: `@memferry/native-${platform}-${arch}-glibc`, main: "memferry.node" }),
  );
}

beforeAll(async () => {
  if (findProgram("npm") === undefined) throw new Error("npm is not there: install it with Node");
  stage = await Stage.open();
  app = await stage.folder("app");
  install();
  writeFileSync(
    path.join(app, "package.json"),
    JSON.stringify({ name: "app", private: true, type: "module", dependencies: { memferry: "*" } }),
  );
  writeFileSync(
    path.join(app, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        module: "nodenext",
        target: "es2022",
        lib: ["es2023", "esnext.disposable"],
        types: ["node"],
        strict: true,
        exactOptionalPropertyTypes: true,
      },
      include: ["*.ts"],
    }),
  );
  for (const [name, code] of programsOf("docs/library.md")) {
    writeFileSync(path.join(app, name), code);
  }
  await stage.relay();
}, PACK_MS);

afterAll(() => stage[Symbol.asyncDispose]());

test("the programs of docs/library.md compile against the package's own types", () => {
  run(process.execPath, [path.join(ROOT, "node_modules/typescript/bin/tsc"), "-p", "."], app);
  expect(readdirSync(app)).toEqual(
    expect.arrayContaining(["source.js", "destination.js", "path.js"]),
  );
  // And a wrong one does not.
  writeFileSync(
    path.join(app, "wrong.ts"),
    `import { Region, seed } from "memferry";
     const session = await seed(await Region.create({ bytes: 1 }), { onSuspend: 5 });
     session.on("round", ({ downtimeMs }) => downtimeMs);`,
  );
  expect(() =>
    run(process.execPath, [path.join(ROOT, "node_modules/typescript/bin/tsc"), "--noEmit"], app),
  ).toThrow(/wrong\.ts\(2.*onSuspend|wrong\.ts\(2.*number.*[\s\S]*wrong\.ts\(3.*downtimeMs/);
});

describe.each(["node", "deno"] as const)("the programs of docs/library.md on %s", (runtime) => {
  function program(name: string, args: readonly string[] = []): Program {
    const flags =
      runtime === "node"
        ? []
        : ["run", "--allow-all", "--no-prompt", "--unstable-net", "--node-modules-dir=manual"];
    return stage.start({
      name,
      command: runtime === "node" ? process.execPath : denoBinary(),
      args: [...flags, path.join(app, name), ...args],
      environment: stage.environment(),
    });
  }

  test("hand a counter over while it counts", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const source = program("source.js");
    await eventually(() => source.stdout.includes("memferry1_") || source.exit !== undefined);
    const ticket = /memferry1_\S+/.exec(source.stdout)?.[0];
    if (ticket === undefined) throw new Error(source.stderr);
    const destination = program("destination.js", [ticket]);
    await destination.expectExit(0);
    await source.expectExit(0);
    expect(source.stdout).toMatch(/^moved$/m);
    const [, counter, , downtime] =
      /counter (\d+), (\d+) rounds, downtime ([\d.]+) ms/.exec(destination.stdout) ?? [];
    expect(Number(counter)).toBeGreaterThan(1);
    expect(Number(downtime)).toBeGreaterThan(0);
  });

  test("show a region as a path", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const shown = program("path.js");
    await shown.expectExit(0);
    expect(shown.stdout).toContain(`true ${1 << 20}`);
  });
});
