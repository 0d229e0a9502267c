import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { COMMON_OPTIONS, commandHelp, type CommandSpec } from "../../../peer/cli/command-line.ts";
import { doctorSpec } from "../../../peer/cli/doctor.ts";
import { keysSpec } from "../../../peer/cli/keys.ts";
import { leechSpec } from "../../../peer/cli/leech.ts";
import { loginSpec } from "../../../peer/cli/login.ts";
import { mountSpec } from "../../../peer/cli/mount-spec.ts";
import { projectsSpec } from "../../../peer/cli/projects.ts";
import { recoverSpec } from "../../../peer/cli/recover.ts";
import { resumeSpec } from "../../../peer/cli/resume.ts";
import { seedSpec } from "../../../peer/cli/seed.ts";
import { sessionsSpec } from "../../../peer/cli/sessions.ts";
import { shimSpec } from "../../../peer/cli/shim.ts";
import { verifySpec } from "../../../peer/cli/verify.ts";
import { VERSION } from "../../../peer/version.ts";
import { HELP as RELAY_HELP } from "../../../relay/config.ts";

const root = join(import.meta.dirname, "../../..");
const page = readFileSync(join(root, "docs/cli.md"), "utf8");
const specs: readonly CommandSpec[] = [
  seedSpec,
  leechSpec,
  resumeSpec,
  recoverSpec,
  verifySpec,
  sessionsSpec,
  mountSpec,
  keysSpec,
  projectsSpec,
  loginSpec,
  doctorSpec,
  shimSpec,
];

/** The part of docs/cli.md on one command; empty if it has none. */
function section(command: string): string {
  const parts = page.split(/^(?=## )/m);
  return parts.find((part) => part.startsWith(`## memferry ${command}\n`)) ?? "";
}

/** Names of long options, without the dashes. */
function optionsIn(text: string): string[] {
  const names = [...text.matchAll(/(?<![\w-])--([a-z][a-z-]*)/g)].map(([, name = ""]) => name);
  return [...new Set(names)].toSorted();
}

/** Options that the section's list explains: `- \`--name VALUE\`...: ...`. */
function listed(text: string): string[] {
  const lines = text.match(/^- `--[^\n]*?`(:|,| \()[^\n]*/gm) ?? [];
  return optionsIn(lines.map((line) => line.split(": ")[0] ?? "").join("\n"));
}

describe("docs/cli.md", () => {
  test.each(specs)("$name: lists exactly the options of its CommandSpec", (spec) => {
    const names = [...Object.keys(spec.options), ...Object.keys(COMMON_OPTIONS)];
    expect(listed(section(spec.name))).toEqual(names.toSorted());
  });

  test.each(specs)("$name: names the value of each option as --help does", (spec) => {
    const text = section(spec.name);
    for (const [name, { value }] of Object.entries(spec.options)) {
      if (value !== undefined) expect(text).toContain(`\`--${name} ${value}\``);
    }
  });

  test.each(specs)("$name: has the synopsis and the examples of --help", (spec) => {
    const text = section(spec.name);
    expect(text).toContain(`memferry ${spec.name} ${spec.usage}\n`);
    for (const [command, explanation] of spec.examples) {
      expect(text).toContain(`    # ${explanation}\n    ${command}\n`);
    }
  });

  test.each(specs)("$name: commandHelp() shows every option", (spec) => {
    const shown = optionsIn(commandHelp(spec));
    expect(shown).toEqual(expect.arrayContaining(Object.keys(spec.options)));
  });

  test("relay: lists exactly the options of its help text", () => {
    const options = /^Options:\n(.*?)^In the file,/ms.exec(RELAY_HELP)?.[1] ?? "";
    // The left column, which may name two.
    const columns = [...options.matchAll(/^ {2}(?:-h, )?(--.*?)(?: {2,}|$)/gm)];
    const names = columns.flatMap(([, column = ""]) =>
      [...column.matchAll(/--([a-z-]+)/g)].map(([, name = ""]) => name),
    );
    expect(names.length).toBeGreaterThan(10);
    expect(listed(section("relay"))).toEqual(names.toSorted());
  });
});

test("VERSION is package.json's", () => {
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    version: string;
  };
  expect(VERSION).toBe(version);
});
