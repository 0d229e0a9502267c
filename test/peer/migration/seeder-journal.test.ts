import { expect, test } from "vitest";
import type { SeederRecord } from "../../../peer/journal/journal.ts";
import { SeederJournal } from "../../../peer/migration/seeder-journal.ts";
import { MemoryJournal } from "../../support/memory-journal.ts";

// Found by simulation: the write failed, the next attempt took the epochs for reserved, and a process after that one
// used the same numbers again for other copies.
test("SeederJournal.reserveEpochs() writes again what could not be written", async () => {
  const file = new MemoryJournal<SeederRecord>();
  const journal = new SeederJournal(file, undefined);
  await journal.record("offered");
  file.failing = "tracking";
  await expect(journal.reserveEpochs(1)).rejects.toMatchObject({ code: "JOURNAL_FAILED" });
  await expect(journal.reserveEpochs(1)).rejects.toMatchObject({ code: "JOURNAL_FAILED" });
  file.failing = undefined;
  await journal.reserveEpochs(1);
  const after = new SeederJournal(file, undefined);
  expect(after.folded).toBeGreaterThan(2);
});

test("SeederJournal writes no record that takes back epochs being reserved", async () => {
  const file = new MemoryJournal<SeederRecord>();
  const journal = new SeederJournal(file, undefined);
  const reserved = journal.reserveEpochs(1);
  await journal.record("suspending");
  await reserved;
  expect(file.record?.phase).toBe("suspending");
  expect(new SeederJournal(file, undefined).folded).toBeGreaterThan(2);
});
