import { afterAll, beforeAll } from "vitest";

import { openDatabase } from "../../relay/db/database.ts";
import { startPostgres, type TestPostgres } from "../support/postgres.ts";
import { requireTool } from "../support/requires.ts";
import { databaseSessionsSuite } from "./database-sessions.ts";
import { databaseSuite } from "./database.ts";

databaseSuite("PGlite", () => openDatabase({ memory: true }), "");
databaseSessionsSuite("PGlite", () => openDatabase({ memory: true }), "");

const { available, skipReason } = requireTool("postgres");
let server: TestPostgres | undefined;
beforeAll(async () => {
  if (available) server = await startPostgres();
});
afterAll(() => server?.stop());

databaseSuite(
  "PostgreSQL",
  async () => openDatabase({ url: (await server?.createDatabase()) ?? "" }),
  skipReason,
);
databaseSessionsSuite(
  "PostgreSQL",
  async () => openDatabase({ url: (await server?.createDatabase()) ?? "" }),
  skipReason,
);
