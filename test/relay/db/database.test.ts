import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { expect, test } from "vitest";

import { createApiKeys } from "../../../relay/db/api-keys.ts";
import { openDatabase } from "../../../relay/db/database.ts";
import { API_SCOPES } from "../../../relay/db/schema.ts";
import { createSessionStore } from "../../../relay/db/session-store.ts";
import { startPostgres } from "../../support/postgres.ts";
import { requireTool } from "../../support/requires.ts";

const postgres = requireTool("postgres");

test("openDatabase() by several relays at once migrates once", async (ctx) => {
  if (!postgres.available) ctx.skip(postgres.skipReason);
  await using server = await startPostgres();
  const url = await server.createDatabase();
  const databases = await Promise.all(Array.from({ length: 4 }, () => openDatabase({ url })));
  for (const database of databases) {
    const applied = { name: "applied", text: "select hash from drizzle.__drizzle_migrations" };
    const hashes = (await database.query(applied, [])).map((row) => row["hash"]);
    expect(hashes.length).toBeGreaterThan(0);
    expect(new Set(hashes).size).toBe(hashes.length);
    await database.close();
    await database.close();
  }
});

test("a server that dies costs errors with a code, never the process", async (ctx) => {
  if (!postgres.available) ctx.skip(postgres.skipReason);
  await using server = await startPostgres();
  const told: unknown[] = [];
  const database = await openDatabase({
    url: await server.createDatabase(),
    onError: (error) => told.push(error),
  });
  const store = createSessionStore(database);
  // In the middle of a transaction, with the connection in use.
  const open = database.queryTransaction(async (query) => {
    await server.stop();
    return await query({ name: "after_the_end", text: "select 1" }, []);
  });
  await expect(open).rejects.toMatchObject({ code: "DATABASE_UNAVAILABLE" });
  await expect(store.owner(new Uint8Array(16))).rejects.toMatchObject({
    code: "DATABASE_UNAVAILABLE",
  });
  await expect(database.ping()).rejects.toMatchObject({ code: "DATABASE_UNAVAILABLE" });
  expect(told.length).toBeGreaterThan(0);
  await database.close();
});

test("openDatabase() of a server that is not there says so, and not the password", async () => {
  const error = await openDatabase({ url: "postgres://user:hunter2@127.0.0.1:1/none" }).catch(
    (thrown: unknown) => thrown,
  );
  expect(error).toMatchObject({ code: "DATABASE_UNAVAILABLE" });
  expect(String(error)).toMatch(/ECONNREFUSED/);
  expect(String(error)).not.toMatch(/hunter2/);
});

test("openDatabase() keeps what PGlite was told in a directory", async () => {
  const directory = await mkdtemp(join(tmpdir(), "memferry-db-"));
  try {
    let id: string;
    {
      await using database = await openDatabase({ dataDir: join(directory, "database") });
      id = await createApiKeys(database).project("kept");
    }
    await using database = await openDatabase({ dataDir: join(directory, "database") });
    expect(await createApiKeys(database).project("kept")).toBe(id);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});

test("an API key is kept as a hash, and is good until it expires or is revoked", async () => {
  await using database = await openDatabase({ memory: true });
  const keys = createApiKeys(database);
  const projectId = await keys.project("default");
  expect(await keys.hasOperatorKey()).toBe(false);
  const made = await keys.create({ projectId, name: "k", scopes: API_SCOPES });
  expect(made.key).toMatch(/^mfk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}$/);
  expect(made.key).toContain(made.prefix);
  expect(await keys.hasOperatorKey()).toBe(true);

  const [row] = await database.query(
    { name: "test_key", text: "select *, secret_hash::text as hash from api_key where id = $1" },
    [made.keyId],
  );
  const secret = made.key.slice("mfk_".length + made.prefix.length + 1);
  const stored = JSON.stringify(row);
  expect(stored).not.toContain(secret);
  expect(stored).not.toContain(Buffer.from(secret, "base64url").toString("hex"));

  expect(await keys.authenticate(made.key)).toMatchObject({ keyId: made.keyId, projectId });
  const flipped = made.key.slice(0, -2) + (made.key.at(-2) === "A" ? "B" : "A") + made.key.at(-1);
  for (const wrong of [
    "",
    "mfk_",
    flipped,
    made.key + "A",
    made.key.replace(made.prefix, "0".repeat(12)),
  ]) {
    expect(await keys.authenticate(wrong)).toBeUndefined();
  }
  const late = await keys.create({
    projectId,
    name: "late",
    scopes: ["admin"],
    expiresAt: new Date(Date.now() - 1000),
  });
  expect(await keys.authenticate(late.key)).toBeUndefined();
  await keys.revoke(made.keyId);
  expect(await keys.authenticate(made.key)).toBeUndefined();
  expect(await keys.isValid(made.keyId)).toBe(false);
});
