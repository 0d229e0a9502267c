/** The programs of docs/client.md, against a relay that runs. */
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";

import { Stage, text } from "./harness.ts";

const CLIENT = new URL("../../relay/client/index.ts", import.meta.url);
const page = readFileSync(fileURLToPath(new URL("../../docs/client.md", import.meta.url)), "utf8");
const programs = [...page.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code = ""]) => code);

let stage: Stage;
let environment: NodeJS.ProcessEnv;

beforeAll(async () => {
  stage = await Stage.open();
  const relay = await stage.relay({ args: ["--dashboard", "127.0.0.1:0"] });
  environment = stage.environment({ RELAY: text(relay.ready, "dashboard"), KEY: relay.key });
});
afterAll(() => stage[Symbol.asyncDispose]());

const SAID = [/^pending .*\nSTATE_CONFLICT .*'pause'/s, /^snapshot\n(.*\n)*(session|event)\n$/];

test("there is a program for each of what is expected", () => {
  expect(programs).toHaveLength(SAID.length);
});

test.each(programs.map((code, k) => [k, code] as const))("program %i", async (k, code) => {
  const file = stage.file(`program-${k}.ts`);
  await writeFile(file, code.replaceAll('"memferry/client"', JSON.stringify(CLIENT.href)));
  const program = stage.start({ name: file, command: process.execPath, args: [file], environment });
  await program.expectExit(0);
  expect(program.stdout).toMatch(SAID[k] ?? /^never$/);
});
