/** The suite of exports over every kind that this machine has; `nbd:/dev/nbdN` is in the guest's. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { afterAll, beforeAll, beforeEach, describe, test } from "vitest";

import { exportCases, type ExportUnderTest } from "../compliance/export.ts";
import { requireMount } from "../native/support/exports.ts";
import { compile, NbdUser, ProgramUser, startUffdUser } from "../support/export-users.ts";
import { requireLoop, requireUffd, skipUnless, type Requirement } from "../support/requires.ts";
import { showRegion, type ShowOptions } from "../support/shown-region.ts";

interface Kind extends Omit<ExportUnderTest, "show">, ShowOptions {
  readonly needs: () => Requirement[];
}

let programs = "";
let pathUser = "";
let uffdUser = "";
beforeAll(() => {
  programs = mkdtempSync(path.join(tmpdir(), "memferry-programs-"));
  pathUser = compile("export-user", programs);
  uffdUser = compile("uffd-user", programs, "-pthread");
});
afterAll(() => rmSync(programs, { recursive: true, force: true }));

const byPath = (at: string): ProgramUser => new ProgramUser(pathUser, [at]);

const kinds: Kind[] = [
  {
    name: "fuse",
    granularity: 1,
    users: 4,
    canMap: true,
    canRefuse: true,
    needs: () => [requireMount()],
    spec: (folder) => {
      const directory = path.join(folder, "mount");
      mkdirSync(directory);
      return `fuse:${directory}`;
    },
    user: byPath,
  },
  {
    name: "loop",
    granularity: 512,
    users: 4,
    canMap: true,
    canRefuse: true,
    needs: () => [requireMount(), requireLoop()],
    spec: () => "loop:auto",
    user: byPath,
  },
  {
    name: "nbd:unix",
    granularity: 1,
    users: 4,
    canMap: false,
    canRefuse: true,
    needs: () => [],
    spec: (folder) => `nbd:unix:${folder}/nbd.sock`,
    user: (at) =>
      NbdUser.open({ path: decodeURI(new URL(at).searchParams.get("socket") ?? "") }, "region"),
  },
  {
    name: "nbd:tcp",
    granularity: 1,
    users: 4,
    canMap: false,
    canRefuse: true,
    needs: () => [],
    spec: () => "nbd:tcp:127.0.0.1:0",
    user: (at) => {
      const { hostname, port } = new URL(at);
      return NbdUser.open({ host: hostname, port: Number(port) }, "region");
    },
  },
];

for (const [name, shared] of [
  ["uffd:unix, private memory", false],
  ["uffd:unix, shared memory", true],
] as const) {
  for (const tracking of ["async", "sync"] as const) {
    kinds.push({
      name: `${name}, ${tracking} tracking`,
      granularity: 1,
      users: 1,
      canMap: true,
      canRefuse: false,
      needs: () => [requireUffd(tracking)],
      spec: (folder) => `uffd:unix:${folder}/uffd.sock`,
      user: (at, region) =>
        startUffdUser(uffdUser, at, region.bytes, {
          shared,
          ...(tracking === "sync" ? { tracking } : {}),
        }),
    });
  }
}

describe.each(kinds)("$name", (kind) => {
  const under: ExportUnderTest = { ...kind, show: (region) => showRegion(region, kind) };
  beforeEach((ctx) => skipUnless(ctx, ...kind.needs()));

  const fitting = exportCases.filter(({ unfit }) => unfit?.(under) === undefined);
  test.for(fitting)("$name", ({ run }) => run(under));
});
