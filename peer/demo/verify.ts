/**
 * A process of the demo: compares a database with what its writer was told to be committed.
 *
 * `verify.ts PATH`, the expectation as JSON on standard input; prints `verdict`, a `Verdict`.
 *
 * @module
 */
import { text } from "node:stream/consumers";

import { Auditor, type Expectation, type Verdict } from "./auditor.ts";
import { inspect } from "./ledger.ts";

// Our own process wrote it.
const expectation = JSON.parse(await text(process.stdin)) as Expectation;
const auditor = new Auditor(expectation);
const { integrity } = inspect(process.argv[2] ?? "", (row) => auditor.see(row));
const verdict: Verdict = { ...auditor.verdict(), integrity };
process.stdout.write(`${JSON.stringify({ event: "verdict", ...verdict })}\n`);
