/**
 * Says aloud, after the last test, what was skipped and why, and counts.
 *
 * Vitest's own reporter shows a skip as a number. A test that cannot run on this machine should say
 * so with its reason (`ctx.skip(reason)`), and one that is skipped without a word is named here too.
 * So is one that failed first and passed when it was tried again, which happens where CI is set.
 * `test/support/run.mjs` collects the counts through the file that MEMFERRY_TEST_SUMMARY names.
 *
 * @module
 */
import { writeFileSync } from "node:fs";
import { relative } from "node:path";

import type { Reporter, TestModule } from "vitest/node";

export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    const skips: string[] = [];
    const flaky: string[] = [];

    for (const module of modules) {
      const file = relative(process.cwd(), module.moduleId);
      // A file that does not even load has no failed test, and must not pass for it.
      counts.failed += module.errors().length;
      for (const suite of module.children.allSuites()) counts.failed += suite.errors().length;
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (test.diagnostic()?.flaky) {
          flaky.push(`flaky: ${file} > ${test.fullName}: passed only when it was tried again`);
        }
        if (result.state === "passed") counts.passed++;
        else if (result.state === "failed") counts.failed++;
        else {
          counts.skipped++;
          const note = result.state === "skipped" ? result.note : "it never ran to its end";
          const fallback = test.options.mode === "todo" ? "not written yet" : "no reason given";
          skips.push(`skipped: ${file} > ${test.fullName}: ${note ?? fallback}`);
        }
      }
    }

    for (const line of [...skips, ...flaky]) console.log(line);
    const target = process.env["MEMFERRY_TEST_SUMMARY"];
    if (target) writeFileSync(target, JSON.stringify({ ...counts, skips: [...skips, ...flaky] }));
  }
}
