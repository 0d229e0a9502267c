/**
 * The live API against its own document: whatever is asked, with keys of every scope, the answer is one that
 * /openapi.json describes, and never an error of the relay's.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { API_SCOPES, type ApiScope } from "../../relay/db/schema.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { Model, operationsOf, type OpenApi, type Operation, type Request } from "./openapi.ts";
import { Scene } from "./scene.ts";

const SEED = Number(process.env["MEMFERRY_SEED"] ?? "0") || Math.floor(Math.random() * 2 ** 31);
const REQUESTS_PER_OPERATION = Number(process.env["MEMFERRY_FUZZ_REQUESTS"] ?? "60");
/** They end the keys that the others ask with, or the relay: asked last, and with keys of their own. */
const LAST = /:drain$/;
const STREAM_MS = 200;

let scene: Scene;
let document: OpenApi;
let operations: readonly Operation[];

beforeAll(async () => {
  if (!requireTool("postgres").available) return;
  scene = await Scene.open({
    limits: {
      requests: 100_000,
      requestBurst: 100_000,
      failedLoginsPerPrefix: 100_000,
      failedLoginBurstPerPrefix: 100_000,
      acceptsPerPrefix: 10_000,
      acceptBurstPerPrefix: 10_000,
    },
  });
  // Written by the relay that is looked at; what it lacks, the tests trip over.
  document = (await (await fetch(`${scene.plainUrl}/openapi.json`)).json()) as OpenApi;
  operations = operationsOf(document);
});
afterAll(() => scene?.[Symbol.asyncDispose]());

interface Answered {
  readonly status: number;
  readonly contentType: string;
  readonly text: string;
}

async function send(key: string, { operation, url, headers, body }: Request): Promise<Answered> {
  const ended = new AbortController();
  const response = await fetch(`${scene.plainUrl}${url}`, {
    method: operation.method,
    headers: { ...headers, ...(key === "" ? {} : { authorization: `Bearer ${key}` }) },
    ...(body === undefined ? {} : { body }),
    redirect: "manual",
    signal: ended.signal,
  });
  const contentType = response.headers.get("content-type") ?? "";
  if (contentType.startsWith("text/event-stream")) {
    // It goes on; what it says is looked at elsewhere.
    setTimeout(() => ended.abort(), STREAM_MS);
    return { status: response.status, contentType, text: "" };
  }
  const { status } = response;
  return { status, contentType, text: await response.text() };
}

test("the document is one of OpenAPI 3.1, and every operation has a name of its own", (ctx) => {
  skipUnless(ctx, requireTool("postgres"));
  expect(document.openapi).toMatch(/^3\.1\./);
  const ids = operations.map(({ id }) => id);
  expect(new Set(ids).size).toBe(ids.length);
  expect(operations.length).toBeGreaterThan(8);
});

const keys: readonly (readonly [string, readonly ApiScope[] | undefined])[] = [
  ["every scope", API_SCOPES],
  ["none", undefined],
  ...API_SCOPES.map((scope) => [scope, [scope]] as const),
];

test.for(keys)(
  "a key with %s gets only answers that the document describes",
  async ([name, scopes], ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const model = new Model(document);
    const found = new Map<string, string>();
    const share = name === "every scope" ? REQUESTS_PER_OPERATION : REQUESTS_PER_OPERATION / 5;
    const makeKey = async (): Promise<string> =>
      scopes === undefined ? "" : await scene.key("fuzzed", scopes);
    let key = await makeKey();
    let asked = 0;
    const statuses = new Map<number, number>();
    const ordered = operations.toSorted(
      (a, b) => Number(a.method === "DELETE") - Number(b.method === "DELETE"),
    );
    for (let round = 0; round < share; round++) {
      for (const operation of ordered) {
        if (LAST.test(operation.path)) continue;
        const [request] = fc.sample(model.request(operation), {
          numRuns: 1,
          seed: SEED + asked,
        });
        if (request === undefined) continue;
        asked++;
        const answer = await send(key, request);
        statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
        // It may have revoked itself.
        if (answer.status === 401 && scopes !== undefined) key = await makeKey();
        for (const problem of model.problems(operation, answer)) {
          const what = `${operation.method} ${operation.path}: ${problem.slice(0, 60)}`;
          if (found.has(what)) continue;
          found.set(
            what,
            `${operation.method} ${request.url}\n  ${JSON.stringify(request.headers)}\n  ${request.body?.slice(0, 400) ?? ""}\n  ${answer.status}: ${problem}`,
          );
        }
      }
    }
    console.log(
      `  ${asked} requests with ${name}, seed ${SEED}: ${[...statuses]
        .toSorted(([a], [b]) => a - b)
        .map(([status, count]) => `${status} x ${count}`)
        .join(", ")}`,
    );
    expect([...found.values()].join("\n\n")).toBe("");
    await scene.stillGood();
  },
);

test("schemathesis finds nothing either", async (ctx) => {
  skipUnless(ctx, requireTool("postgres"));
  const program = schemathesis();
  if (program === undefined) {
    ctx.skip("no schemathesis: MEMFERRY_SCHEMATHESIS names it, or python3 with pip can install it");
    return;
  }
  const folder = mkdtempSync(path.join(tmpdir(), "memferry-schemathesis-"));
  try {
    const key = await scene.key("schemathesis");
    const run = spawnSync(
      program,
      [
        "run",
        `${scene.plainUrl}/openapi.json`,
        "--url",
        scene.plainUrl,
        "--header",
        `Authorization: Bearer ${key}`,
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--exclude-path-regex",
        ":drain$|/keys|/projects|/events$|/sign-",
        "--max-examples",
        "25",
        "--seed",
        String(SEED),
        "--suppress-health-check",
        "all",
        "--no-color",
      ],
      { cwd: folder, encoding: "utf8", timeout: 170_000 },
    );
    expect(run.status, `${run.stdout}${run.stderr}`.slice(-6_000)).toBe(0);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 240_000);

/** Installed into a folder of this suite's own, once. */
function schemathesis(): string | undefined {
  const named = process.env["MEMFERRY_SCHEMATHESIS"];
  if (named !== undefined && existsSync(named)) return named;
  const venv = path.join(tmpdir(), "memferry-schemathesis-venv");
  const program = path.join(venv, "bin", "schemathesis");
  if (existsSync(program)) return program;
  const steps: readonly (readonly [string, readonly string[]])[] = [
    ["python3", ["-m", "venv", venv]],
    [path.join(venv, "bin", "pip"), ["install", "--quiet", "schemathesis==4.32.5"]],
  ];
  for (const [command, args] of steps) {
    const { status } = spawnSync(command, args, { stdio: "ignore", timeout: 120_000 });
    if (status !== 0) return undefined;
  }
  return existsSync(program) ? program : undefined;
}
