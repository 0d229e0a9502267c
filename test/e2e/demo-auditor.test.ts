/**
 * An audit that finds nothing is worth as much as what it would have found.
 */
import { expect, test } from "vitest";

import { Auditor } from "../../peer/demo/auditor.ts";
import { checksumOf, type Row } from "../../peer/demo/ledger.ts";

function row(id: number, version = 0): Row {
  const payload = Buffer.from(`row ${id}`);
  return { id, version, payload, checksum: checksumOf({ id, version, payload }) };
}

/** Rows 1 to 3 were there; 4 to 6 were added; 2 was rewritten twice. */
function audit(rows: readonly Row[]) {
  const auditor = new Auditor({
    priorRows: 3,
    committed: [
      [4, 5],
      [6, 6],
    ],
    rewritten: [
      [2, 1],
      [2, 2],
    ],
  });
  for (const each of rows) auditor.see(each);
  return auditor.verdict();
}

const good = [row(1), row(2, 2), row(3), row(4), row(5), row(6)];
const clean = {
  rows: 6,
  rowsLost: 0,
  rowsDuplicated: 0,
  rowsDamaged: 0,
  rowsStale: 0,
  rowsUnacknowledged: 0,
};

test("Auditor finds nothing wrong with what was acknowledged", () => {
  expect(audit(good)).toEqual(clean);
});

test("Auditor misses a row that is gone", () => {
  expect(audit(good.toSpliced(4, 1))).toEqual({ ...clean, rows: 5, rowsLost: 1 });
});

test("Auditor sees a row twice", () => {
  expect(audit([...good, row(3)])).toEqual({ ...clean, rowsDuplicated: 1 });
});

test("Auditor notices that two writers were told the same row", () => {
  const auditor = new Auditor({
    priorRows: 0,
    committed: [
      [1, 3],
      [3, 4],
    ],
    rewritten: [],
  });
  expect(auditor.verdict()).toMatchObject({ rowsDuplicated: 1, rowsLost: 4 });
});

test("Auditor notices a byte that changed, and a row in another's place", () => {
  const bent = { ...row(5), payload: Buffer.from("row 6") };
  const moved = { ...row(6), id: 4 };
  expect(audit(good.with(4, bent))).toEqual({ ...clean, rowsDamaged: 1 });
  expect(audit(good.with(3, moved))).toEqual({ ...clean, rowsDamaged: 1 });
});

test("Auditor notices a row as it was before an acknowledged change", () => {
  expect(audit(good.with(1, row(2, 1)))).toEqual({ ...clean, rowsStale: 1 });
  expect(audit(good.with(1, row(2, 3)))).toEqual(clean);
});

test("Auditor notices a row that nobody was told of", () => {
  expect(audit([...good, row(7)])).toEqual({ ...clean, rows: 7, rowsUnacknowledged: 1 });
});
