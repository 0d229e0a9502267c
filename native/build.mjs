/**
 * Builds the addon and the preloaded library of `shim/`: `node native/build.mjs [--force] [--debug] [--sanitize[=thread]] [--if-possible]`.
 *
 * Plain JavaScript and no dependency beyond the two header packages, so that it runs on any Node that
 * is around. The compiler is `$CXX`, else g++, else c++. Nothing is done when sources, flags and compiler are
 * those of the last build; `--if-possible` turns the lack of a compiler into a warning.
 *
 * @module
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const started = performance.now();
const root = dirname(fileURLToPath(import.meta.url));
const options = new Set(process.argv.slice(2));
const known = [
  "--force",
  "--debug",
  "--sanitize",
  "--sanitize=address",
  "--sanitize=thread",
  "--if-possible",
];
for (const option of options) {
  if (!known.includes(option)) fail(`unknown option ${option}; known: ${known.join(" ")}`);
}
const debug = options.has("--debug");
const sanitizer = options.has("--sanitize=thread")
  ? "thread"
  : options.has("--sanitize") || options.has("--sanitize=address")
    ? "address,undefined"
    : undefined;

if (process.platform !== "linux")
  giveUp(`memferry's addon needs Linux; this is ${process.platform}`);

const compiler = findCompiler();
const require = createRequire(import.meta.url);
// A sanitized addon loads only where the sanitizer is preloaded, so it stays out of the loader's way.
const outDirectory = join(root, "build", sanitizer ? `sanitize-${sanitizer.split(",")[0]}` : ".");
const output = join(outDirectory, "memferry.node");
const shim = join(outDirectory, "memferry-shim.so");
const stamp = join(outDirectory, "memferry.stamp");

const sources = [
  ...filesOf("src", /\.cc$/).map((file) => ({ file, flags: [] })),
  ...blake3Sources(),
];
const optimize =
  debug || sanitizer ? ["-O1", "-g", "-fno-omit-frame-pointer"] : ["-O2", "-DNDEBUG"];
const shared = [
  ...optimize,
  "-fPIC",
  "-pthread",
  "-fvisibility=hidden",
  "-Wall",
  "-Wextra",
  ...(sanitizer ? [`-fsanitize=${sanitizer}`] : []),
];
const cxxFlags = [
  "-std=c++20",
  "-fno-exceptions",
  "-Wno-missing-field-initializers",
  "-DNAPI_VERSION=9",
  "-DNAPI_DISABLE_CPP_EXCEPTIONS",
  // In a worker that is being terminated nothing can be thrown; by default that aborts the process.
  "-DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
  "-isystem",
  join(dirname(require.resolve("node-api-headers/package.json")), "include"),
  "-isystem",
  dirname(require.resolve("node-addon-api/package.json")),
];
const cFlags = [
  "-std=c11",
  // Hidden: another addon in the process may carry its own copy of BLAKE3.
  "-DBLAKE3_API=",
  "-DBLAKE3_PRIVATE=",
  "-w",
];
// nodelete: threads of ours may still be on their way out when a worker's environment unloads us.
const linkFlags = [
  "-shared",
  "-pthread",
  "-Wl,-z,nodelete",
  ...(debug || sanitizer ? [] : ["-s"]),
  ...(sanitizer ? [`-fsanitize=${sanitizer}`] : []),
];

const hash = createHash("sha256").update(
  JSON.stringify([compiler.version, shared, cxxFlags, cFlags, linkFlags]),
);
for (const file of [
  ...filesOf("src", /./),
  ...filesOf("shim", /\.c$/),
  ...filesOf("vendor/blake3", /\.[ch]$/),
]) {
  hash.update(`${file}\0`).update(readFileSync(join(root, file)));
}
const wanted = hash.digest("hex");
if (
  !options.has("--force") &&
  existsSync(output) &&
  existsSync(shim) &&
  readText(stamp) === wanted
) {
  say("native: up to date");
} else {
  await build().catch((error) => fail(error.message));
}

async function build() {
  mkdirSync(outDirectory, { recursive: true });
  const scratch = mkdtempSync(join(outDirectory, "tmp-"));
  try {
    const objects = await inParallel(sources, async ({ file, flags }) => {
      const object = join(scratch, `${file.replaceAll("/", "_")}.o`);
      const language = file.endsWith(".c") ? ["-x", "c", ...cFlags] : cxxFlags;
      await run([...language, ...shared, ...flags, "-c", join(root, file), "-o", object]);
      return object;
    });
    const linked = join(scratch, "memferry.node");
    await run([...objects, ...linkFlags, "-o", linked]);
    await buildShim(scratch);
    // A rename is atomic: a process that loads it now gets the old binary or the new one, whole.
    renameSync(linked, output);
    writeFileSync(join(scratch, "stamp"), wanted);
    renameSync(join(scratch, "stamp"), stamp);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  say(`native: built ${relative(process.cwd(), output)} with ${compiler.version} in ${seconds} s`);
}

/** Goes into other people's programs: C alone, nothing of the addon, and nothing visible but what it replaces. */
async function buildShim(scratch) {
  const made = join(scratch, "memferry-shim.so");
  await run([
    ..."-x c -std=c11 -O2 -Wall -Wextra -fPIC -pthread -shared -fvisibility=hidden -s".split(" "),
    join(root, "shim", "memferry_shim.c"),
    "-o",
    made,
    "-ldl",
  ]);
  renameSync(made, shim);
}

/** The code paths of BLAKE3 choose themselves at run time; each file needs the flags of its path. */
function blake3Sources() {
  const paths =
    process.arch === "x64"
      ? [
          ["blake3_sse2.c", "-msse2"],
          ["blake3_sse41.c", "-msse4.1"],
          ["blake3_avx2.c", "-mavx2"],
          ["blake3_avx512.c", "-mavx512f", "-mavx512vl"],
        ]
      : process.arch === "arm64"
        ? [["blake3_neon.c"]]
        : [];
  return [["blake3.c"], ["blake3_dispatch.c"], ["blake3_portable.c"], ...paths].map(
    ([file, ...flags]) => ({
      file: `vendor/blake3/${file}`,
      flags,
    }),
  );
}

function filesOf(directory, pattern) {
  return readdirSync(join(root, directory))
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => `${directory}/${name}`);
}

function findCompiler() {
  const asked = process.env.CXX;
  for (const name of asked ? [asked] : ["g++", "c++", "clang++"]) {
    // $CXX may carry arguments, e.g. "ccache g++".
    const [command, ...prefix] = name.split(/\s+/).filter(Boolean);
    const result = spawnSync(command, [...prefix, "--version"], { encoding: "utf8" });
    if (result.status === 0) return { command, prefix, version: result.stdout.split("\n", 1)[0] };
  }
  giveUp(
    asked
      ? `the compiler in CXX, "${asked}", does not run`
      : "no C++ compiler; install one: sudo apt-get install g++",
  );
}

async function inParallel(items, work) {
  const results = [];
  const failures = [];
  let next = 0;
  const runner = async () => {
    while (next < items.length && failures.length === 0) {
      const index = next++;
      results[index] = await work(items[index]).catch((error) => failures.push(error));
    }
  };
  // All of them, also after a failure: the compilers that still run write where we are about to tidy up.
  await Promise.all(Array.from({ length: Math.max(2, availableParallelism()) }, runner));
  if (failures.length > 0) throw failures[0];
  return results;
}

function run(args) {
  return new Promise((resolve, reject) => {
    const child = spawn(compiler.command, [...compiler.prefix, ...args], { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code) => {
      if (code === 0) resolve();
      else reject(new Error(`${compiler.command} failed; its message is above`));
    });
  });
}

function readText(file) {
  return existsSync(file) ? readFileSync(file, "utf8") : undefined;
}

function say(line) {
  process.stdout.write(`${line}\n`);
}

function giveUp(reason) {
  if (!options.has("--if-possible")) fail(reason);
  process.stderr.write(`native: warning: not built: ${reason}\n`);
  process.exit(0);
}

function fail(reason) {
  process.stderr.write(`native: ${reason}\n`);
  process.exit(1);
}
