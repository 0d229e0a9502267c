/**
 * What every export does, whatever a program has in its hands: a file, a block device, a server, its own memory.
 *
 * A list of cases and not of tests, because one kind needs a guest, where no test framework runs.
 *
 * @module
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import type { NativeRegion } from "../../native/index.ts";
import { ExportedWrites } from "../../peer/export/exported-writes.ts";
import type { ExportPlace } from "../../peer/export/place.ts";
import type { ExportUser } from "../support/export-users.ts";
import {
  CHUNK,
  contentOf,
  emptyRegion,
  filledRegion,
  image,
  indexesOf,
} from "../support/regions.ts";

export interface ShownRegion extends AsyncDisposable {
  readonly place: Pick<ExportPlace, "flush" | "invalidate">;
  /** A program more. */
  user(): Promise<ExportUser>;
}

export interface ExportUnderTest {
  readonly name: string;
  /** Whole multiples of this are a region's size. */
  readonly granularity: number;
  /** How many programs can use it at once and see each other's writes. */
  readonly users: number;
  readonly canMap: boolean;
  /** Whether a program is told that the region lives elsewhere now; memory cannot be refused. */
  readonly canRefuse: boolean;
  /** Shows the region as `region`, to programs that come later. */
  show(region: NativeRegion): Promise<ShownRegion>;
}

export interface ExportCase {
  readonly name: string;
  /** Why it is not for this export; `undefined` if it is. */
  readonly unfit?: (under: ExportUnderTest) => string | undefined;
  readonly run: (under: ExportUnderTest) => Promise<void>;
}

interface Scene extends AsyncDisposable {
  readonly region: NativeRegion;
  readonly place: ShownRegion["place"];
  readonly users: readonly ExportUser[];
  /** The first of them. */
  readonly user: ExportUser;
}

/** Waits longer than anything that is not held back takes. */
const A_WHILE_MS = 150;

async function scene(under: ExportUnderTest, region: NativeRegion, count = 1): Promise<Scene> {
  const shown = await under.show(region);
  const users: ExportUser[] = [];
  for (let i = 0; i < count; i++) users.push(await shown.user());
  const [user] = users;
  assert.ok(user !== undefined);
  return {
    region,
    place: shown.place,
    users,
    user,
    async [Symbol.asyncDispose]() {
      for (const each of users) await each.close();
      await shown[Symbol.asyncDispose]();
      await region.close();
    },
  };
}

/** Of a length that is a multiple of nothing else. */
const oddImage = (under: ExportUnderTest, chunks: number): Buffer =>
  image(
    chunks * CHUNK +
      (under.granularity === 1 ? 12_345 : Math.ceil(5000 / under.granularity) * under.granularity),
  );

export const exportCases: readonly ExportCase[] = [
  {
    name: "a region that is here is read as it is, to its last byte",
    async run(under) {
      const content = oddImage(under, 40);
      await using at = await scene(under, await filledRegion(content));
      assert.ok((await at.user.read(0, content.length)).equals(content));
    },
  },
  {
    name: "a region that is elsewhere is read as it is, and nothing is fetched twice",
    async run(under) {
      const content = oddImage(under, 40);
      const { region, fetched } = emptyRegion(content);
      await using at = await scene(under, region);
      assert.ok((await at.user.read(0, content.length)).equals(content));
      assert.equal(new Set(fetched).size, fetched.length);
      assert.equal(fetched.length, region.chunkCount);
    },
  },
  {
    name: "pieces at odd places are read and written",
    async run(under) {
      const content = oddImage(under, 12);
      await using at = await scene(under, await filledRegion(content));
      const pieces = [
        [1, 3],
        [CHUNK - 5, 11],
        [3 * CHUNK - 1, 2 * CHUNK + 2],
        [content.length - 777, 777],
      ] as const;
      for (const [offset, length] of pieces) {
        assert.ok(
          (await at.user.read(offset, length)).equals(content.subarray(offset, offset + length)),
        );
        const bytes = Buffer.alloc(length, `piece at ${offset};`);
        await at.user.write(offset, bytes);
        bytes.copy(content, offset);
      }
      await at.user.sync();
      await at.place.flush("region");
      assert.ok((await contentOf(at.region)).equals(content));
      await at.user.forget();
      assert.ok((await at.user.read(0, content.length)).equals(content));
    },
  },
  {
    name: "a write into a chunk that is elsewhere keeps the rest of the chunk",
    async run(under) {
      const content = oddImage(under, 12);
      const { region, fetched } = emptyRegion(content);
      await using at = await scene(under, region);
      const bytes = Buffer.alloc(5000, "over the border;");
      await at.user.write(4 * CHUNK - 2500, bytes);
      bytes.copy(content, 4 * CHUNK - 2500);
      await at.user.sync();
      await at.place.flush("region");
      assert.ok((await at.user.read(0, content.length)).equals(content));
      assert.ok((await contentOf(region)).equals(content));
      assert.equal(new Set(fetched).size, fetched.length);
    },
  },
  {
    name: "a mapping is read and written, also where chunks are elsewhere",
    unfit: ({ canMap }) => (canMap ? undefined : "a socket cannot be mapped"),
    async run(under) {
      const content = oddImage(under, 12);
      const { region } = emptyRegion(content);
      await using at = await scene(under, region);
      const { mapped } = at.user;
      assert.ok(mapped !== undefined);
      assert.ok(
        (await mapped.read(CHUNK + 7, 100_000)).equals(
          content.subarray(CHUNK + 7, CHUNK + 100_007),
        ),
      );
      const bytes = Buffer.alloc(CHUNK + 9000, "through a mapping;");
      await mapped.write(7 * CHUNK + 100, bytes);
      bytes.copy(content, 7 * CHUNK + 100);
      await at.user.sync();
      await at.place.flush("region");
      assert.ok((await at.user.read(0, content.length)).equals(content));
      assert.ok((await contentOf(region)).equals(content));
    },
  },
  {
    name: "what was synced is marked, and nothing else is",
    async run(under) {
      await using at = await scene(under, await filledRegion(image(24 * CHUNK)));
      await at.user.read(0, 24 * CHUNK);
      await at.place.flush("region");
      at.region.takeDirty();
      await at.user.write(5 * CHUNK, image(2 * CHUNK));
      await at.user.sync();
      await at.place.flush("region");
      assert.deepEqual(indexesOf(at.region.takeDirty()), [5, 6]);
      await at.place.flush("region");
      assert.deepEqual(indexesOf(at.region.takeDirty()), []);
      await at.user.write(5 * CHUNK + 1, Buffer.of(1));
      await at.user.sync();
      await at.place.flush("region");
      assert.deepEqual(indexesOf(at.region.takeDirty()), [5]);
    },
  },
  {
    name: "what nobody synced is found when the workload is held still",
    async run(under) {
      const content = image(24 * CHUNK);
      await using at = await scene(under, await filledRegion(content));
      const writes = new ExportedWrites(at.region, at.place, "region");
      await writes.begin();
      const bytes = Buffer.alloc(9000, "never synced;");
      await (at.user.mapped ?? at.user).write(9 * CHUNK + 5, bytes);
      bytes.copy(content, 9 * CHUNK + 5);
      await writes.freeze();
      assert.ok(indexesOf(await writes.collect()).includes(9));
      assert.ok((await contentOf(at.region)).equals(content));
      writes.thaw();
      assert.ok((await at.user.read(0, content.length)).equals(content));
    },
  },
  {
    name: "each write is in the set of its round or of the next",
    async run(under) {
      const content = image(16 * CHUNK);
      await using at = await scene(under, await filledRegion(content));
      const writes = new ExportedWrites(at.region, at.place, "region");
      await writes.begin();
      // Where the other side is: what each round tells it to take.
      const there = Buffer.from(content);
      const take = async (): Promise<void> => {
        const dirty = indexesOf(await writes.collect());
        const now = await contentOf(at.region);
        for (const index of dirty) {
          now.copy(there, index * CHUNK, index * CHUNK, (index + 1) * CHUNK);
        }
      };
      let writing = true;
      const writer = (async () => {
        for (let n = 0; n < 400; n++) {
          const offset = ((n * 2_654_435_761) >>> 0) % (16 * CHUNK - 64);
          const bytes = Buffer.alloc(64, `write ${n};`);
          await at.user.write(offset, bytes);
          bytes.copy(content, offset);
        }
        writing = false;
      })();
      while (writing) await take();
      await writer;
      await writes.freeze();
      await take();
      writes.thaw();
      assert.ok(there.equals(content));
    },
  },
  {
    name: "a range that is zeroed reads as zeros, and its neighbours stay",
    async run(under) {
      const content = image(16 * CHUNK);
      await using at = await scene(under, await filledRegion(content));
      await at.user.read(0, content.length);
      await at.place.flush("region");
      at.region.takeDirty();
      await at.user.zero(8 * CHUNK, 2 * CHUNK);
      content.fill(0, 8 * CHUNK, 10 * CHUNK);
      await at.user.sync();
      await at.place.flush("region");
      assert.deepEqual(
        indexesOf(at.region.takeDirty()).filter((index) => index === 8 || index === 9),
        [8, 9],
      );
      assert.ok((await contentOf(at.region)).equals(content));
      assert.ok((await at.user.read(0, content.length)).equals(content));
    },
  },
  {
    name: "several programs write at once into chunks that are elsewhere",
    unfit: ({ users }) => (users > 1 ? undefined : "one program at a time has this memory"),
    async run(under) {
      const content = image(32 * CHUNK);
      const { region, fetched } = emptyRegion(content);
      const count = Math.min(4, under.users);
      await using at = await scene(under, region, count);
      // Blocks in turn: each chunk is written by all.
      await Promise.all(
        at.users.map(async (user, lane) => {
          for (let block = lane; block < 512; block += count) {
            const bytes = Buffer.alloc(4096, `block ${block} of ${lane};`);
            await user.write(block * 4096, bytes);
            bytes.copy(content, block * 4096);
          }
          await user.sync();
        }),
      );
      assert.equal(new Set(fetched).size, fetched.length);
      assert.ok((await contentOf(region)).equals(content));
      for (const user of at.users) {
        assert.ok((await user.read(0, content.length)).equals(content));
      }
    },
  },
  {
    name: "many who wait for one chunk cause one fetch",
    unfit: ({ users }) => (users > 1 ? undefined : "one program at a time has this memory"),
    async run(under) {
      const content = image(8 * CHUNK);
      const { region, fetched } = emptyRegion(content);
      await using at = await scene(under, region, Math.min(4, under.users));
      const wanted = content.subarray(6 * CHUNK, 6 * CHUNK + 4096);
      // Whatever looked at the region before it was asked to.
      await sleep(A_WHILE_MS);
      const before = fetched.length;
      const all = await Promise.all(
        at.users.flatMap((user) => [user.read(6 * CHUNK, 4096), user.read(6 * CHUNK, 4096)]),
      );
      for (const bytes of all) assert.ok(bytes.equals(wanted));
      assert.equal(fetched.slice(before).filter((index) => index === 6).length, 1);
    },
  },
  {
    name: "who comes while the gate is shut waits, and goes on when it opens",
    async run(under) {
      const content = image(8 * CHUNK);
      await using at = await scene(under, await filledRegion(content));
      at.region.setGate("closed");
      let over = false;
      const reading = at.user.read(3 * CHUNK, 100).finally(() => (over = true));
      await sleep(A_WHILE_MS);
      assert.equal(over, false);
      at.region.setGate("open");
      assert.ok((await reading).equals(content.subarray(3 * CHUNK, 3 * CHUNK + 100)));
    },
  },
  {
    name: "a region that lives elsewhere now is refused, and nobody waits for ever",
    unfit: ({ canRefuse }) => (canRefuse ? undefined : "a load from memory cannot be refused"),
    async run(under) {
      await using at = await scene(under, await filledRegion(image(8 * CHUNK)));
      at.region.setGate("fenced");
      await assert.rejects(at.user.read(5 * CHUNK, 100), /error/);
    },
  },
  {
    name: "a read or a write beyond the end is an error, and what follows is served",
    async run(under) {
      const content = oddImage(under, 3);
      await using at = await scene(under, await filledRegion(content));
      await assert.rejects(at.user.read(content.length - 10, 20), /error/);
      await assert.rejects(at.user.write(content.length, Buffer.alloc(600)), /error/);
      assert.ok((await at.user.read(0, 100)).equals(content.subarray(0, 100)));
    },
  },
];
