import pg from "pg";
import { expect, test } from "vitest";

import { startPostgres } from "./postgres.ts";
import { requireTool, skipUnless } from "./requires.ts";

const found = requireTool("postgres");

async function answers(connectionString: string): Promise<string> {
  const client = new pg.Client({ connectionString, connectionTimeoutMillis: 5_000 });
  await client.connect();
  try {
    const { rows } = await client.query<{ name: string }>("SELECT current_database() AS name");
    return rows[0]?.name ?? "";
  } finally {
    await client.end();
  }
}

test("startPostgres() gives a server on a socket, with databases of one's own", async (ctx) => {
  skipUnless(ctx, found);
  await using server = await startPostgres();
  expect(await answers(server.url)).toBe("postgres");
  const urls = [await server.createDatabase(), await server.createDatabase()];
  expect(await Promise.all(urls.map(answers))).toEqual(["test_1", "test_2"]);
});

test("startPostgres() listens on 127.0.0.1 when asked, and on nothing after stop", async (ctx) => {
  skipUnless(ctx, found);
  const server = await startPostgres({ tcp: true });
  expect(await answers(server.url)).toBe("postgres");
  await server.stop();
  await server.stop();
  await expect(answers(server.url)).rejects.toThrow(/ECONNREFUSED|refused/);
});
