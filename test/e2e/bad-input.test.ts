/**
 * Each mistake ends with one line that names the cure, and with the documented status.
 */
/* oxlint-disable vitest/expect-expect -- expectOneLine and expectRefusal do */
import {
  chown,
  copyFile,
  mkdir,
  mkdtemp,
  open,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { decodeTicket, encodeTicket, TICKET_PREFIX } from "../../relay/protocol/ticket.ts";
import { requireFuse, requireRoot, skipUnless } from "../support/requires.ts";
import { makeFile } from "./files.ts";
import { redirect, type Result, Stage, text, type TestRelay } from "./harness.ts";

const MIB = 1024 * 1024;

let stage: Stage;
let relay: TestRelay;
let source: string;
let files = 0;

beforeAll(async () => {
  stage = await Stage.open();
  relay = await stage.relay();
  source = stage.file("source");
  await makeFile(source, 2 * MIB + 5);
});

afterAll(() => stage[Symbol.asyncDispose]());

const newFile = (): string => stage.file(`new-${++files}`);

function expectOneLine(result: Result, code: number, cure: RegExp): void {
  expect(result.stderr).toMatch(/^memferry: [^\n]+\n$/);
  expect(result.stderr).toMatch(cure);
  expect(result.stdout).toBe("");
  expect(result.code).toBe(code);
}

async function isAbsent(path: string): Promise<boolean> {
  return await stat(path).then(
    () => false,
    () => true,
  );
}

async function unusedPort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

interface BadCall {
  readonly name: string;
  readonly args: () => readonly string[];
  readonly cure: RegExp;
  readonly code?: number;
  readonly environment?: NodeJS.ProcessEnv;
}

/** Commands that must be refused before anything is done. */
const badCalls: readonly BadCall[] = [
  {
    name: "an unknown command",
    args: () => ["sprout"],
    cure: /"sprout" is not a command: see memferry --help/,
  },
  {
    name: "an unknown option",
    args: () => ["seed", "--fiel", source],
    cure: /--fiel.*: see memferry seed --help/,
  },
  {
    name: "one argument too many",
    args: () => ["leech", "a", "b", "--file", newFile()],
    cure: /"b" is one argument too many: see memferry leech --help/,
  },
  { name: "nothing to seed", args: () => ["seed"], cure: /give either --file PATH or --size SIZE/ },
  {
    name: "--file and --size at once",
    args: () => ["seed", "--file", source, "--size", "1MiB"],
    cure: /give either --file PATH or --size SIZE/,
  },
  {
    name: "--size without an export",
    args: () => ["seed", "--size", "1MiB"],
    cure: /--size needs --export/,
  },
  {
    name: "a size that is none",
    args: () => ["seed", "--size", "lots"],
    cure: /--size lots is not a size: write it as 64KiB/,
  },
  {
    name: "a size in an unknown unit",
    args: () => ["seed", "--size", "5XiB"],
    cure: /--size 5XiB is not a size: write it as 64KiB/,
  },
  {
    name: "a chunk that is no power of two",
    args: () => ["seed", "--file", source, "--chunk", "65000"],
    cure: /--chunk 65000 is not a power of two from 4KiB to 4MiB/,
  },
  {
    name: "a chunk that is too small",
    args: () => ["seed", "--file", source, "--chunk", "2KiB"],
    cure: /--chunk 2KiB is not a power of two from 4KiB to 4MiB/,
  },
  {
    name: "a chunk that is too large",
    args: () => ["seed", "--file", source, "--chunk", "8MiB"],
    cure: /--chunk 8MiB is not a power of two from 4KiB to 4MiB/,
  },
  {
    name: "an unknown kind of link",
    args: () => ["seed", "--file", source, "--link", "carrier-pigeon"],
    cure: /--link carrier-pigeon is not one of auto, webtransport, websocket/,
  },
  {
    name: "an unknown kind of export",
    args: () => ["seed", "--file", source, "--export", "nfs:there"],
    cure: /--export nfs:there is unknown: use fuse:DIR, /,
  },
  {
    name: "a region's name with a slash",
    args: () => ["seed", "--file", source, "--region", "a/b"],
    cure: /--region a\/b cannot be the name of a file/,
  },
  {
    name: "a file that is missing",
    args: () => ["seed", "--file", stage.file("nowhere")],
    cure: /--file .*nowhere: .*(no such file|does not exist)/i,
  },
  {
    name: "an empty file",
    args: () => ["seed", "--file", stage.file("empty")],
    cure: /empty is empty: there is nothing to migrate/,
  },
  {
    name: "a folder",
    args: () => ["seed", "--file", stage.path],
    cure: /--file .* is not a file: give the path of one/,
  },
  {
    name: "an address that is no relay's",
    args: () => ["seed", "--file", source, "--relay", "ftp://example"],
    cure: /use https:\/\/HOST:PORT/,
    code: 1,
  },
  {
    name: "no key",
    args: () => ["seed", "--file", source],
    cure: /no relay is known: start one with `memferry relay`, run `memferry login URL`/,
    environment: { XDG_CONFIG_HOME: "/nonexistent" },
  },
  {
    name: "no ticket",
    args: () => ["leech", "--file", newFile()],
    cure: /no ticket: give the text/,
  },
  {
    name: "a ticket that is none",
    args: () => ["leech", "hunter2", "--file", newFile()],
    cure: /this is not a ticket: one starts with memferry1_ and is printed by `memferry seed`/,
    code: 1,
  },
  {
    name: "a ticket file that is missing",
    args: () => ["leech", "--ticket-file", stage.file("nowhere"), "--file", newFile()],
    cure: /--ticket-file .*nowhere: .*no such file/i,
  },
];

describe("a wrong call is refused in one line:", () => {
  beforeAll(() => writeFile(stage.file("empty"), ""));

  test.concurrent.for(badCalls)("$name", async ({ args, cure, code = 2, environment }) => {
    expectOneLine(await stage.run(args(), environment ? { environment } : {}), code, cure);
  });
});

describe.concurrent("a ticket that is not good is refused in one line:", () => {
  test("damaged", async () => {
    const { seeder, ticket } = await stage.seed(["--file", source]);
    for (const damaged of [ticket.slice(0, -9), `${ticket.slice(0, 30)}!${ticket.slice(31)}`]) {
      const result = await stage.run(["leech", damaged, "--file", newFile()]);
      expectOneLine(result, 1, /this ticket is damaged: copy it again, whole/);
    }
    seeder.kill("SIGINT");
    await seeder.expectExit(1);
  });

  test("used", async () => {
    const { seeder, ticket } = await stage.seed(["--file", source]);
    const leecher = stage.leech(ticket, ["--file", newFile()]);
    await leecher.waitFor("channel");
    const during = await stage.run(["leech", ticket, "--file", newFile(), "--quiet"]);
    expectOneLine(during, 1, /: ask for a new ticket, `memferry seed` prints one/);
    await Promise.all([leecher.expectExit(0), seeder.expectExit(0)]);
    const after = await stage.run(["leech", ticket, "--file", newFile(), "--quiet"]);
    expectOneLine(after, 1, /: ask for a new ticket, `memferry seed` prints one/);
  });

  test("expired", async () => {
    const { seeder, ticket } = await stage.seed(["--file", source, "--ticket-ttl", "1s"]);
    await sleep(1_500);
    const file = newFile();
    const result = await stage.run(["leech", ticket, "--file", file, "--quiet"]);
    expectOneLine(result, 1, /not used in time: ask for a new ticket, `memferry seed` prints one/);
    expect(await isAbsent(file)).toBe(true);
    seeder.kill("SIGINT");
    await seeder.expectExit(1);
  });

  test("the seeder's, or the leecher's that claims to be", async () => {
    const { seeder, ticket } = await stage.seed(["--file", source]);
    const other = encodeTicket({ ...decodeTicket(ticket), role: "seeder" });
    const result = await stage.run(["leech", other, "--file", newFile(), "--quiet"]);
    expectOneLine(result, 2, /this ticket is the seeder's: the one for `leech` is printed after/);
    seeder.kill("SIGINT");
    await seeder.expectExit(1);
  });

  test("of a session that the relay does not know", async () => {
    const { seeder, ticket } = await stage.seed(["--file", source]);
    const known = decodeTicket(ticket);
    const unknown = {
      ...known,
      sessionId: Uint8Array.from(known.sessionId, (byte) => byte ^ 0x5a),
    };
    const guessed = { ...known, token: Uint8Array.from(known.token, (byte) => byte ^ 0x5a) };
    for (const bad of [unknown, guessed]) {
      const result = await stage.run(["leech", encodeTicket(bad), "--file", newFile(), "--quiet"]);
      expectOneLine(result, 1, /does not know the ticket: ask for a new ticket/);
    }
    seeder.kill("SIGINT");
    await seeder.expectExit(1);
  });

  test("with a wrong secret: the peers do not agree, and nothing is written", async () => {
    const { seeder, ticket } = await stage.seed(["--file", source]);
    const known = decodeTicket(ticket);
    const wrong = { ...known, secret: Uint8Array.from(known.secret, (byte) => byte ^ 1) };
    const file = newFile();
    const result = await stage.run(["leech", encodeTicket(wrong), "--file", file, "--quiet"]);
    expectOneLine(result, 1, /ticket|secret/);
    expect(await isAbsent(file)).toBe(true);
    await seeder.expectExit(1);
  });

  test("its text never appears in an error", async () => {
    const secret = `${TICKET_PREFIX}AAAAsecretsecretsecret`;
    const { stderr } = await stage.run(["leech", secret, "--file", newFile()]);
    expect(stderr).not.toContain("secretsecret");
  });
});

describe.concurrent("a relay that is not there, or not ours, is told in one line:", () => {
  test("seed and leech where nothing listens", async () => {
    const { seeder, ticket } = await stage.seed(["--file", source]);
    const nowhere = `https://127.0.0.1:${await unusedPort()}`;
    const environment = { MEMFERRY_KEY: relay.key };
    const results = await Promise.all([
      stage.run(["seed", "--file", source, "--relay", nowhere], { environment }),
      stage.run(["sessions", "list", "--relay", nowhere], { environment }),
      // UDP that nobody answers shows only as silence: that case is in test/long.
      stage.run(["leech", redirect(ticket, nowhere), "--file", newFile(), "--link", "websocket"]),
    ]);
    for (const result of results) {
      expectOneLine(result, 1, /no relay answers at 127\.0\.0\.1:\d+.*(memferry relay|firewall)/);
    }
    seeder.kill("SIGINT");
    await seeder.expectExit(1);
  });

  test("a certificate that nobody vouches for, and one that is another's", async () => {
    const key = { MEMFERRY_KEY: relay.key };
    const unknown = await stage.run(["sessions", "list", "--relay", relay.url], {
      environment: { ...key, XDG_CONFIG_HOME: stage.file("nobody") },
    });
    expectOneLine(unknown, 1, /certificate.*does not trust/);

    const { seeder, ticket } = await stage.seed(["--file", source]);
    const { relayIdentity: _, ...known } = decodeTicket(ticket);
    const unvouched = { ...known, certificateHashes: [new Uint8Array(32).fill(7)] };
    const anothers = { ...unvouched, relayIdentity: new Uint8Array(32).fill(8) };
    const file = newFile();
    for (const link of ["auto", "websocket", "webtransport"]) {
      for (const pinned of [unvouched, anothers]) {
        const args = ["leech", encodeTicket(pinned), "--file", file, "--link", link];
        expectOneLine(await stage.run(args), 1, /certificate/);
      }
    }
    expect(await isAbsent(file)).toBe(true);
    seeder.kill("SIGINT");
    await seeder.expectExit(1);
  });

  test("a wrong key", async () => {
    const environment = { MEMFERRY_KEY: "mfk_not-a-key" };
    expectOneLine(
      await stage.run(["seed", "--file", source], { environment }),
      1,
      /set MEMFERRY_KEY, give --key-file, or run `memferry login`/,
    );
  });
});

describe.concurrent("a destination that will not do is told in one line, and the source keeps the region:", () => {
  interface Case {
    readonly cure: RegExp;
    readonly args?: readonly string[];
    readonly file: string;
  }

  async function expectRefusal({ cure, args = [], file }: Case): Promise<void> {
    const { seeder, ticket } = await stage.seed(["--file", source]);
    const result = await stage.run(["leech", ticket, "--file", file, "--quiet", ...args]);
    expectOneLine(result, 1, cure);
    await seeder.expectExit(1);
    const error = seeder.last("error");
    expect(text(error, "owner")).toBe("seeder");
    expect(text(error, "message")).toContain("the region is still here");
  }

  test("a file of another size", async () => {
    const file = newFile();
    await writeFile(file, "precious");
    const cure = /has 8 bytes and the region 2097157: delete it or give another --file/;
    await expectRefusal({ file, cure });
    await expectRefusal({ file, cure, args: ["--overwrite"] });
    expect(await readFile(file, "utf8")).toBe("precious");
  });

  test("a file of the same size, without --overwrite", async () => {
    const file = newFile();
    const content = Buffer.alloc(2 * MIB + 5, "p");
    await writeFile(file, content);
    await expectRefusal({ file, cure: /exists: add --overwrite to replace what it holds/ });
    expect((await readFile(file)).equals(content)).toBe(true);
  });

  test("a folder that is not there", async () => {
    await expectRefusal({
      file: stage.file("no/such/folder/file"),
      cure: /--file .*folder\/file: /,
    });
  });

  test("a full disk, known beforehand", async (ctx) => {
    skipUnless(ctx, requireRoot());
    const disk = await stage.tmpfs("small-disk", MIB);
    const file = `${disk}/region`;
    await expectRefusal({ file, cure: /no room for 2\.0 MiB at .*: free space there, .*--file/ });
    expect(await isAbsent(file)).toBe(true);
  });

  test("a disk that fills up, with --sparse", async (ctx) => {
    skipUnless(ctx, requireRoot());
    const disk = await stage.tmpfs("small-disk-sparse", MIB);
    const file = `${disk}/region`;
    await expectRefusal({
      file,
      args: ["--sparse", "--mode", "precopy"],
      cure: /disk is full: free space there/,
    });
    expect(await isAbsent(file)).toBe(true);
  });

  test("a mount point that is not empty", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const folder = await stage.folder("not-empty");
    await writeFile(`${folder}/something`, "x");
    const cure = /not-empty: the folder is not empty: give an empty one/;
    const { seeder, ticket } = await stage.seed(["--file", source]);
    const leech = ["leech", ticket, "--file", newFile(), "--quiet"];
    expectOneLine(await stage.run([...leech, "--export", `fuse:${folder}`]), 2, cure);
    // Nothing was joined, so the ticket is as good as before.
    expect(await stage.run(leech)).toEqual({ code: 0, stdout: "", stderr: "" });
    await seeder.expectExit(0);
    // A file of its own: what is exported may be open by one seeder alone.
    const own = newFile();
    await makeFile(own, MIB);
    const result = await stage.run(["seed", "--file", own, "--export", `fuse:${folder}`]);
    expectOneLine(result, 2, cure);
    expect(await readFile(`${folder}/something`, "utf8")).toBe("x");
  });
});

describe.concurrent("a source that fails is told in one line:", () => {
  test("no right to read it", async (ctx) => {
    skipUnless(ctx, requireRoot());
    const file = newFile();
    await makeFile(file, 4_096);
    // A configuration that it may read, beside a stage that it may not.
    const home = await mkdtemp(path.join(tmpdir(), "memferry-e2e-nobody-"));
    try {
      await mkdir(path.join(home, "memferry"));
      const config = path.join(home, "memferry", "config.json");
      await copyFile(stage.file("config/memferry/config.json"), config);
      for (const one of [home, path.dirname(config), config]) await chown(one, 65_534, 65_534);
      const environment = { XDG_CONFIG_HOME: home, XDG_STATE_HOME: home };
      const result = await stage.run(["seed", "--file", file], { environment, asNobody: true });
      expectOneLine(result, 2, /permission denied/);
    } finally {
      await rm(home, { recursive: true });
    }
  });

  test("a file that shrinks while it is seeded", async () => {
    const file = newFile();
    await makeFile(file, 32 * MIB);
    const { seeder, ticket } = await stage.seed(["--file", file]);
    const leecher = stage.leech(ticket, ["--file", newFile(), "--finalize", "manual"]);
    await leecher.waitFor("round");
    await truncate(file, 16 * MIB);
    await Promise.all([seeder.expectExit(1), leecher.expectExit(1)]);
    const error = seeder.last("error");
    expect(text(error, "code")).toBe("SOURCE_CHANGED");
    expect(text(error, "message")).toMatch(/shrank from \d+ to \d+ bytes .*restore it/);
    expect(text(leecher.last("error"), "message")).toMatch(/source.*(shrank|truncated)/);
    expect((await stat(file)).size).toBe(16 * MIB);
  });

  test("a file that shrinks before anybody came", async () => {
    const file = newFile();
    await makeFile(file, 8 * MIB);
    const { seeder, ticket } = await stage.seed(["--file", file]);
    await truncate(file, MIB);
    const destination = newFile();
    const leecher = stage.leech(ticket, ["--file", destination]);
    await Promise.all([seeder.expectExit(1), leecher.expectExit(1)]);
    expect(text(seeder.last("error"), "message")).toMatch(/shrank from \d+ to \d+ bytes/);
    expect(await isAbsent(destination)).toBe(true);
  });

  test("a file that is deleted while it is seeded is migrated all the same", async () => {
    const file = newFile();
    await makeFile(file, 4 * MIB);
    const { seeder, ticket } = await stage.seed(["--file", file]);
    const content = await readFile(file);
    await rm(file);
    const destination = newFile();
    const leecher = stage.leech(ticket, ["--file", destination]);
    await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
    expect((await readFile(destination)).equals(content)).toBe(true);
  });

  test("a file that grows is migrated at its first size", async () => {
    const file = newFile();
    await makeFile(file, 4 * MIB);
    const content = await readFile(file);
    const { seeder, ticket } = await stage.seed(["--file", file]);
    await using handle = await open(file, "a");
    await handle.write("more");
    const destination = newFile();
    const leecher = stage.leech(ticket, ["--file", destination]);
    await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
    expect((await readFile(destination)).equals(content)).toBe(true);
  });
});
