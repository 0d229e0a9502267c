/**
 * What a linter cannot check: that the tree agrees with its own documents, and speaks of itself alone.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";

import { expect, test } from "vitest";

const SOURCE_LINES_MAX = 600;

const root = path.join(import.meta.dirname, "..");
const read = (file: string): string => readFileSync(path.join(root, file), "utf8");

/** Files under version control, and new ones that are not ignored; none where there is no git. */
const files = listFiles();
const sources = files.filter(
  (file) =>
    /^(relay|peer|native|web|test)\/.*\.(ts|tsx|mjs|cc|h)$/.test(file) &&
    !file.startsWith("native/vendor/"),
);

function listFiles(): string[] {
  try {
    const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    const listed = execFileSync("git", args, { cwd: root, stdio: ["ignore", "pipe", "ignore"] });
    return listed
      .toString()
      .split("\0")
      .filter((file) => file !== "" && existsSync(path.join(root, file)));
  } catch {
    return [];
  }
}

/** Codes of every exported `SomethingErrorCode`: a union of literals, or the keys of a table. */
function errorCodes(source: string): string[] {
  return [...source.matchAll(/export type \w*ErrorCode\s*=([^;]*);/g)].flatMap(([, union = ""]) => {
    const table = /^\s*keyof typeof (\w+)\s*$/.exec(union)?.[1];
    if (table === undefined) return [...union.matchAll(/"(\w+)"/g)].map(([, code = ""]) => code);
    const body = new RegExp(`const ${table} = \\{([^}]*)\\}`).exec(source)?.[1];
    if (body === undefined) throw new Error(`cannot find the table ${table}`);
    return [...body.matchAll(/^\s*(\w+):/gm)].map(([, code = ""]) => code);
  });
}

test("git lists the tree that these checks read", (ctx) => {
  if (files.length === 0) ctx.skip("not a git checkout, or no git here: apt-get install -y git");
  expect(files).toContain("package.json");
});

test("every error code has a row in docs/errors.md", (ctx) => {
  if (!existsSync(path.join(root, "docs/errors.md"))) ctx.skip("docs/errors.md is yet to come");
  const rows = read("docs/errors.md").match(/^\|.*$/gm) ?? [];
  const codes = sources.flatMap((file) => errorCodes(read(file)));
  const undocumented = codes.filter((code) => !rows.some((row) => row.includes(`\`${code}\``)));
  expect(undocumented).toEqual([]);
});

test("every limit has a line in docs/limits.md", (ctx) => {
  if (!existsSync(path.join(root, "docs/limits.md"))) ctx.skip("docs/limits.md is yet to come");
  const page = read("docs/limits.md");
  const limits = sources
    .filter((file) => path.basename(file) === "limits.ts")
    .flatMap((file) => [...read(file).matchAll(/^export const ([A-Z][A-Z0-9_]*)\b/gm)])
    .map(([, name = ""]) => name);
  const undocumented = limits.filter((name) => !new RegExp(`\\b${name}\\b`).test(page));
  expect(undocumented).toEqual([]);
});

test("migrations/ and its journal name the same files", (ctx) => {
  const journalFile = "migrations/meta/_journal.json";
  const sql = files.filter((file) => /^migrations\/[^/]+\.sql$/.test(file));
  if (sql.length === 0 && !existsSync(path.join(root, journalFile))) {
    ctx.skip("migrations/ is yet to come");
  }
  const journal = JSON.parse(read(journalFile)) as { entries: { tag: string }[] };
  expect(sql.map((file) => path.basename(file, ".sql")).toSorted()).toEqual(
    journal.entries.map((entry) => entry.tag).toSorted(),
  );
});

test(`no source file is longer than ${SOURCE_LINES_MAX} lines`, () => {
  const long = sources
    .filter((file) => !file.startsWith("test/"))
    .map((file) => ({ file, lineCount: read(file).split("\n").length - 1 }))
    .filter(({ lineCount }) => lineCount > SOURCE_LINES_MAX);
  expect(long).toEqual([]);
});

test("package-lock.json names no registry, so that any mirror will do", () => {
  expect(read("package-lock.json")).not.toMatch(/"resolved":/);
  expect(read(".npmrc")).not.toMatch(/registry\s*=/);
  expect(read("package.json")).not.toMatch(/"(https?|git\+\w+|file):/);
});

test("no file speaks of one machine's folders", () => {
  // Spelled in parts, so that this line does not find itself.
  const places = ["home", "Users", "root", "work", "workspace"].join("|");
  const pattern = new RegExp(`(?<![\\w.~-])/(${places})/[\\w.-]+`);
  const found = files
    .filter((file) => !/^native\/vendor\/|\.(png|svg|ico|woff2?|bin)$/.test(file))
    .flatMap((file) => {
      const match = pattern.exec(read(file));
      return match ? [`${file}: ${match[0]}`] : [];
    });
  expect(found).toEqual([]);
});

test("the launcher asks for the Node that package.json asks for", () => {
  const { engines } = JSON.parse(read("package.json")) as { engines: { node: string } };
  const wanted = /^>=(\d+)\.(\d+)$/.exec(engines.node);
  for (const file of ["peer/launcher.mjs", "test/support/setup.mjs"]) {
    expect(read(file)).toContain(`major < ${wanted?.[1]} ||`);
    expect(read(file)).toContain(`minor < ${wanted?.[2]})`);
  }
});
