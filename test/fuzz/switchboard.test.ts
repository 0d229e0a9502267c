/**
 * A relay that is told damaged frames, by strangers and by peers that joined: each stream ends, and the others go on.
 */
import { expect, test } from "vitest";

import { memoryRelay } from "../../peer/net/memory-link.ts";
import { PeerIdentity } from "../../peer/net/peer-identity.ts";
import { ProtocolError } from "../../relay/protocol/errors.ts";
import { encodeFrame } from "../../relay/protocol/frame.ts";
import { CONTROL_FRAME_BYTES_MAX } from "../../relay/protocol/limits.ts";
import { MessageReader, readFrame } from "../../relay/protocol/message-stream.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../../relay/protocol/version.ts";
import { Switchboard } from "../../relay/switchboard/switchboard.ts";
import { recordFrames } from "../fixtures/relay-recordings.ts";
import { GatedStore, makeSession, RawPeer } from "../relay/switchboard/harness.ts";
import { joined, mutate, pieces } from "./mutate.ts";
import { CaseRandom } from "./random.ts";

const SEED = Number(process.env["MEMFERRY_FUZZ_SEED"] ?? 1);
const ROUNDS = 300;
const AT_ONCE = 30;
const recorded = recordFrames().map(({ bytes }) => bytes);
/** What a peer that joined may say. */
const fitting = recorded.filter(([, , , , kind = 0]) => kind > 0x03 && kind < 0x40);

/** Reads to the end, however it comes. @returns The code of the last word. */
async function endOf(stream: ByteStream): Promise<string> {
  const reader = new MessageReader(stream);
  let last = "a bare end";
  try {
    for (;;) {
      const frame = await readFrame(reader, CONTROL_FRAME_BYTES_MAX);
      if (frame === null) return last;
      last = frame.kind === "error" ? frame.code : `after ${frame.kind}`;
    }
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    return error.code;
  }
}

test("Switchboard ends every stream that damaged frames come on, and a pair beside them goes on", async () => {
  const store = new GatedStore();
  const logged: string[] = [];
  const switchboard = new Switchboard({
    store,
    log: (level, message) => logged.push(`${level} ${message}`),
  });
  const network = memoryRelay((incoming) => switchboard.accept(incoming));
  const dial = () => network.dial({ url: "https://memory:1", certificateHashes: [] });
  try {
    const session = makeSession(store);
    const seeder = await (await RawPeer.open(await dial(), session, "seeder")).join();
    const leecher = await (await RawPeer.open(await dial(), session, "leecher")).join();
    await Promise.all([seeder.paired(), leecher.paired()]);
    const pair = await Promise.all([seeder.openStream(0), leecher.openStream(0)]);
    const keepAlive = setInterval(() => {
      for (const peer of [seeder, leecher]) void peer.send({ kind: "ping", nonce: 1 });
    }, 1_000);

    const endings = new Map<string, number>();
    const round = async (number: number): Promise<void> => {
      const random = new CaseRandom();
      random.reset(SEED, number);
      const link = await dial();
      const stream = await link.openStream();
      const other = makeSession(store);
      const role = random.of(["seeder", "leecher"] as const);
      const hello = encodeFrame({
        kind: "hello",
        major: PROTOCOL_MAJOR,
        minor: PROTOCOL_MINOR,
        features: 0,
        role,
        sessionId: other.sessionId,
        peerKey: PeerIdentity.generate().publicKey,
        token: other.tokens[role],
      });
      const frames = Array.from({ length: 1 + random.below(8) }, () =>
        random.of(random.below(15) === 0 ? recorded : fitting),
      );
      const damaged = mutate(joined(...frames), random, random.of(recorded));
      const said = random.below(4) > 0 ? joined(hello, damaged) : damaged;
      const ending = endOf(stream);
      try {
        for (const piece of pieces(said, random)) await stream.write(piece);
        await stream.end();
      } catch (error) {
        // It was ended before all was said.
        if (!(error instanceof ProtocolError)) throw error;
      }
      const code = await ending;
      endings.set(code, (endings.get(code) ?? 0) + 1);
      await link.close("OK", "done");
    };
    for (let first = 0; first < ROUNDS; first += AT_ONCE) {
      await Promise.all(Array.from({ length: AT_ONCE }, (_, i) => round(first + i)));
    }
    clearInterval(keepAlive);
    console.log(`seed ${SEED}: ${JSON.stringify([...endings])}`);

    await pair[0].write(Uint8Array.of(1, 2, 3));
    expect(await pair[1].read()).toEqual(Uint8Array.of(1, 2, 3));
    await leecher.send({ kind: "commit", epoch: 1 });
    expect(await leecher.until("owner")).toMatchObject({ owner: "leecher", state: "committed" });
    expect(logged.filter((line) => line.startsWith("error"))).toEqual([]);
  } finally {
    await switchboard.close();
    network.close("LINK_CLOSED", "the test is over");
  }
});
