/**
 * Seven projects: `unit` on Node, `deno` (the part of it that must also run on Deno), `e2e` with
 * processes, mounts and namespaces of the one machine; `long`, `exports`, `stores` and `abuse` have their own commands.
 */
import { configDefaults, defineConfig } from "vitest/config";

/** What also runs on Deno: the relay, and every shared suite. */
const onDeno = [
  "test/relay/**/*.test.ts",
  "test/compliance/**/*.test.ts",
  "test/support/*.test.ts",
];

declare module "vitest" {
  interface ProvidedContext {
    /** What `test/support/run.mjs` runs this project on. */
    runtime: "node" | "deno";
  }
}

export default defineConfig({
  test: {
    pool: "forks",
    provide: { runtime: "node" },
    maxWorkers: 2,
    // A machine that CI shares with others can be slow by seconds. A second try is told aloud
    // (`flaky:`, the summary reporter); at a developer's desk there is none.
    retry: process.env["CI"] ? 1 : 0,
    reporters: ["default", "./test/support/summary-reporter.ts"],
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          include: [
            "test/*.test.ts",
            "test/{relay,peer,native,web,compliance,sim,fuzz,support}/**/*.test.ts",
          ],
          testTimeout: 20_000,
          hookTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: "deno",
          include: onDeno,
          // Deno has WebTransport of its own: that package's adapters serve Node alone.
          exclude: [...configDefaults.exclude, "test/compliance/link-fails.test.ts"],
          provide: { runtime: "deno" },
          testTimeout: 30_000,
          hookTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: "e2e",
          include: ["test/e2e/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: "long",
          include: ["test/long/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 1_800_000,
          hookTimeout: 300_000,
        },
      },
      {
        extends: true,
        test: {
          name: "stores",
          include: ["test/stores/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: "abuse",
          include: ["test/abuse/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 180_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: "browser",
          include: ["test/browser/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: "exports",
          include: ["test/exports/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
