/**
 * A process of the demo: makes a database and a file with room for it to grow.
 *
 * `prior-data.ts PATH DATABASE_BYTES FILE_BYTES`; prints `{"bytes"}` lines as it goes and at last
 * `{"event":"made","rows"}`.
 *
 * @module
 */
import { closeSync, fsyncSync, openSync, truncateSync } from "node:fs";

import { PAGE_BYTES, PRIOR_PAYLOAD_BYTES } from "./ledger-layout.ts";
import { Ledger } from "./ledger.ts";

const ROWS_PER_TRANSACTION = 2_048;

function make(path: string, databaseBytes: number, fileBytes: number): number {
  const ledger = Ledger.create(path);
  let rows = 0;
  while (ledger.bytes < databaseBytes) {
    const missing = Math.ceil((databaseBytes - ledger.bytes) / PAGE_BYTES);
    ledger.transaction(() => {
      for (let i = 0; i < Math.min(missing, ROWS_PER_TRANSACTION); i++) {
        ledger.insert(++rows, PRIOR_PAYLOAD_BYTES);
      }
    });
    process.stdout.write(`${JSON.stringify({ bytes: ledger.bytes })}\n`);
  }
  ledger.close();
  truncateSync(path, fileBytes);
  const file = openSync(path, "r+");
  fsyncSync(file);
  closeSync(file);
  return rows;
}

const [path = "", databaseBytes, fileBytes] = process.argv.slice(2);
const rows = make(path, Number(databaseBytes), Number(fileBytes));
process.stdout.write(`${JSON.stringify({ event: "made", rows })}\n`);
