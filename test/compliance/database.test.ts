import { afterAll, beforeAll } from "vitest";

import { openDatabase } from "../../relay/db/database.ts";
import { startPostgres, type TestPostgres } from "../support/postgres.ts";
import { requireTool } from "../support/requires.ts";
import { chunkIndexSuite } from "./chunk-index.ts";
import { databaseSessionsSuite } from "./database-sessions.ts";
import { databaseSuite } from "./database.ts";

const pglite = () => openDatabase({ memory: true });
databaseSuite("PGlite", pglite, "");
databaseSessionsSuite("PGlite", pglite, "");
chunkIndexSuite("PGlite", pglite, "");

const { available, skipReason } = requireTool("postgres");
let server: TestPostgres | undefined;
beforeAll(async () => {
  if (available) server = await startPostgres();
});
afterAll(() => server?.stop());

const postgres = async () => openDatabase({ url: (await server?.createDatabase()) ?? "" });
databaseSuite("PostgreSQL", postgres, skipReason);
databaseSessionsSuite("PostgreSQL", postgres, skipReason);
chunkIndexSuite("PostgreSQL", postgres, skipReason);
