import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { ended, zombieEnding, type Ending } from "../../../peer/supervisor/ending.ts";

// A supervisor that was not scheduled for a while sees the zombie before it hears of the exit, and took every one for
// killed: it then went on with a session that was over.
test.each<[string, Ending]>([
  ["exit 0", { code: 0, signal: null }],
  ["exit 3", { code: 3, signal: null }],
  ["kill -KILL $$", { code: null, signal: "SIGKILL" }],
  ["kill -TERM $$", { code: null, signal: "SIGTERM" }],
])("zombieEnding() of one that did `%s` is %o", async (command, ending) => {
  // What takes the shell's place waits for no child. A child that ended before would still be the shell's.
  const whenReplaced = "until grep -q sleep /proc/$PPID/comm; do sleep 0.01; done";
  const parent = spawn("sh", [
    "-c",
    `sh -c '${whenReplaced}; ${command}' & echo $!; exec sleep 1000`,
  ]);
  try {
    const [line] = (await once(parent.stdout, "data")) as [Buffer];
    const pid = Number(line.toString());
    let seen: Ending | undefined;
    while (seen === undefined) {
      // Gone altogether would be an endless wait.
      expect(await readFile(`/proc/${pid}/stat`, "utf8")).toContain(`${pid} (`);
      seen = await zombieEnding(pid);
      if (seen === undefined) await sleep(5);
    }
    expect(seen).toEqual(ending);
  } finally {
    parent.kill("SIGKILL");
  }
});

test("zombieEnding() of a process that lives, or is gone, is nothing", async () => {
  expect(await zombieEnding(process.pid)).toBe(undefined);
  const child = spawn("true");
  expect(await ended(child)).toEqual({ code: 0, signal: null });
  expect(await zombieEnding(child.pid ?? 0)).toBe(undefined);
});
