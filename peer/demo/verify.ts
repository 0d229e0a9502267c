/**
 * A process of the demo: compares a database with what its writer was told to be committed.
 *
 * `verify.ts PATH`, the expectation as JSON on standard input; prints one `Verdict`.
 *
 * @module
 */
import { text } from "node:stream/consumers";

import { inspect } from "./ledger.ts";
import { Auditor, type Expectation } from "./auditor.ts";

// Our own process wrote it.
const expectation = JSON.parse(await text(process.stdin)) as Expectation;
const auditor = new Auditor(expectation);
const { integrity } = inspect(process.argv[2] ?? "", (row) => auditor.see(row));
process.stdout.write(`${JSON.stringify({ ...auditor.verdict(), integrity })}\n`);
