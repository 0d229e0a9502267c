/** Cases 9 to 24 of the list of what a relay must survive: who may join, and what joined peers do. */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { dialLink } from "../../peer/net/dial.ts";
import type { Link } from "../../peer/net/link.ts";
import { PeerIdentity } from "../../peer/net/peer-identity.ts";
import { encodeFrame, PROGRESS_FIELDS } from "../../relay/protocol/frame.ts";
import type { Role } from "../../relay/protocol/ids.ts";
import type { ByteStream } from "../../relay/protocol/stream.ts";
import { encodeTicket } from "../../relay/protocol/ticket.ts";
import { PROTOCOL_MAJOR, PROTOCOL_MINOR } from "../../relay/protocol/version.ts";
import { RawPeer } from "../relay/switchboard/harness.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { loopback, RawWebSocket, reset, secured, tcp, tlsSocket, wsFrame } from "./raw.ts";
import { Scene, type Session } from "./scene.ts";

const MIB = 1024 * 1024;

let scene: Scene;
let key: string;

beforeAll(async () => {
  if (!requireTool("postgres").available) return;
  scene = await Scene.open({
    args: ["--log-level", "debug"],
    limits: { acceptsPerPrefix: 5_000, acceptBurstPerPrefix: 20_000, handshakesPerPrefix: 1_000 },
  });
  key = await scene.key("abuser");
});
afterAll(() => scene?.[Symbol.asyncDispose]());

function dial({ tickets }: Session): Promise<Link> {
  const { relayUrl: url, certificateHashes } = tickets.seeder;
  return dialLink("websocket", { url, certificateHashes });
}

const ofTest = ({ tickets }: Session) => ({
  sessionId: tickets.seeder.sessionId,
  tokens: { seeder: tickets.seeder.token, leecher: tickets.leecher.token },
});

async function raw(session: Session, role: Role, identity?: PeerIdentity): Promise<RawPeer> {
  return await RawPeer.open(await dial(session), ofTest(session), role, identity);
}

/** Both, joined and paired. */
async function pair(session: Session): Promise<readonly [RawPeer, RawPeer]> {
  const peers = await Promise.all(
    (["seeder", "leecher"] as const).map(async (role) => (await raw(session, role)).join()),
  );
  const [seeder, leecher] = peers;
  if (seeder === undefined || leecher === undefined) throw new Error("two peers were made");
  await Promise.all(peers.map((peer) => peer.paired()));
  return [seeder, leecher];
}

/** What the relay says before it lets go: the code of its error frame. */
async function refusal(peer: RawPeer): Promise<string> {
  try {
    for (;;) {
      const frame = await peer.next();
      if (frame === null) return "closed";
      if (frame.kind === "error") return frame.code;
    }
  } catch (error) {
    return typeof error === "object" && error !== null && "code" in error
      ? String(error.code)
      : String(error);
  } finally {
    await peer.link.close("OK", "done");
  }
}

/** Heartbeats, until it is over. */
async function alive(signal: AbortSignal, ...peers: RawPeer[]): Promise<void> {
  while (!signal.aborted) {
    for (const peer of peers) await peer.send({ kind: "ping", nonce: 1 });
    await sleep(1_000);
  }
}

const leave = (...peers: RawPeer[]): Promise<unknown> =>
  Promise.all(peers.map((peer) => peer.link.close("OK", "done")));

describe("who may join", () => {
  test("(9) a ticket is good once, for its role, its session and its key", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const one = await scene.session(key);
    const other = await scene.session(await scene.key("another"));
    const { tokens } = ofTest(one);

    const swapped = await raw(one, "seeder");
    await swapped.hello(tokens.leecher);
    expect(await refusal(swapped)).toBe("TICKET_WRONG_ROLE");

    const foreign = await raw(one, "seeder");
    await foreign.hello(ofTest(other).tokens.seeder);
    expect(await refusal(foreign)).toBe("TICKET_UNKNOWN");

    const first = await (await raw(one, "seeder")).join();
    const replayed = await raw(one, "seeder");
    await replayed.hello(tokens.seeder);
    expect(await refusal(replayed)).toBe("TICKET_USED");

    // Coming back with somebody's place but another key; and with that key, but without its secret.
    const stranger = await raw(one, "seeder");
    await stranger.hello();
    await stranger.prove();
    expect(await refusal(stranger)).toBe("PEER_UNKNOWN");
    const impostor = await raw(one, "seeder");
    await impostor.hello(undefined, first.identity.publicKey);
    await impostor.prove();
    expect(await refusal(impostor)).toBe("PROOF_INVALID");

    const { id } = await scene.session(key, { ticketTtlMs: 1_000 });
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    const late = await scene.session(key, { ticketTtlMs: 1_000 });
    await sleep(1_300);
    const expired = await raw(late, "leecher");
    await expired.hello(ofTest(late).tokens.leecher);
    expect(await refusal(expired)).toMatch(/^(TICKET_EXPIRED|SESSION_ENDED)$/);
    await leave(first);
  });

  test("(9) guesses at tickets and places, as fast as they go", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const session = await scene.session(key);
    let refused = 0;
    await scene.during(async (signal) => {
      await Promise.all(
        Array.from({ length: 6 }, async (_, i) => {
          while (!signal.aborted) {
            const peer = await raw(session, i % 2 === 0 ? "seeder" : "leecher");
            await peer.hello(i % 3 === 0 ? undefined : randomBytes(32));
            if (i % 3 === 0) await peer.prove();
            expect(await refusal(peer)).toMatch(/^(TICKET_UNKNOWN|PEER_UNKNOWN)$/);
            refused++;
          }
        }),
      );
    });
    expect(refused).toBeGreaterThan(50);
    const joined = await (await raw(session, "seeder")).join();
    await leave(joined);
  });

  test("(13) two that have the same identity fight for one place, and nobody else notices", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const session = await scene.session(key);
    const identity = PeerIdentity.generate();
    const first = await (await raw(session, "seeder", identity)).join();
    await leave(first);
    let fights = 0;
    await scene.during(async (signal) => {
      await Promise.all(
        Array.from({ length: 4 }, async () => {
          while (!signal.aborted) {
            const peer = await raw(session, "seeder", identity);
            try {
              await peer.rejoin();
              await Promise.race([peer.until("error").catch(() => {}), sleep(20)]);
              fights++;
            } catch (error) {
              expect(String(error)).toMatch(/ROLE_TAKEN|connected again|later connection|closed/);
            }
            await leave(peer);
          }
        }),
      );
    });
    expect(fights).toBeGreaterThan(20);
  });
});

describe("what joined peers do", () => {
  test("(16) leechers that never read while seeders push hold a bounded amount", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const pairs: (readonly [RawPeer, RawPeer])[] = [];
    let pushed = 0;
    await scene.during(async (signal) => {
      // Of an attempt before this one.
      for (const peers of pairs.splice(0)) await leave(...peers);
      const sessions = await Promise.all(Array.from({ length: 2 }, () => scene.session(key)));
      await Promise.all(
        sessions.map(async (session) => {
          const peers = await pair(session);
          pairs.push(peers);
          const [seeder, leecher] = peers;
          void alive(signal, seeder, leecher);
          const ends = await Promise.all(
            Array.from({ length: 60 }, async (_, i) => {
              const [from] = await Promise.all([
                seeder.openStream(2 + i),
                leecher.openStream(2 + i),
              ]);
              return from;
            }),
          );
          await Promise.race([
            Promise.all(
              ends.map(async (stream) => {
                while (!signal.aborted) {
                  await stream.write(new Uint8Array(64 * 1024));
                  pushed += 64 * 1024;
                  // The machine is not what is to be filled.
                  await sleep(10);
                }
              }),
            ),
            new Promise<void>((resolve) => {
              signal.addEventListener("abort", () => resolve(), { once: true });
            }),
          ]);
        }),
      );
    }, 224 * MIB);
    // More than the relay is let hold, kernel and peers included: so it was pushed for real.
    expect(pushed).toBeGreaterThan(224 * MIB);
    for (const peers of pairs) await leave(...peers);
  });

  test("(16) messages of one byte that nobody reads hold no more", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const pairs: (readonly [RawPeer, RawPeer])[] = [];
    let sent = 0;
    await scene.during(async (signal) => {
      for (const peers of pairs.splice(0)) await leave(...peers);
      const peers = await pair(await scene.session(key));
      pairs.push(peers);
      const [seeder, leecher] = peers;
      void alive(signal, seeder, leecher);
      const ends = await Promise.all(
        Array.from({ length: 8 }, async (_, i) => {
          const [from] = await Promise.all([seeder.openStream(2 + i), leecher.openStream(2 + i)]);
          return from;
        }),
      );
      // Of as many bytes as a stream may hold, each is a message of its own.
      await Promise.all(
        ends.map(async (stream) => {
          for (let i = 0; i < 60_000 && !signal.aborted; i++) {
            // Not waited for: what our side may hold is not what this is about.
            stream.write(Uint8Array.of(1)).catch(() => {});
            sent++;
            if (i % 500 === 0) await sleep(5);
          }
        }),
      );
    }, 128 * MIB);
    expect(sent).toBeGreaterThan(50_000);
    for (const peers of pairs) await leave(...peers);
  });

  test("(17) a peer that disappears without a word is let go", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const session = await scene.session(key);
    const [seeder, leecher] = await pair(session);
    const connected = async (): Promise<boolean> =>
      (await scene.ask(key, "GET", `/v1/sessions/${session.id}`)).body.seeder.connected;
    expect(await connected()).toBe(true);
    // It sends no more and closes nothing, as after a cable was pulled.
    const startedAtMs = performance.now();
    while (await connected()) {
      expect(performance.now() - startedAtMs).toBeLessThan(30_000);
      await sleep(250);
    }
    await leave(seeder, leecher);
  });

  test("(18) connections that end or break at each step, in each direction, leave nothing", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const { port } = scene.relay;
    const upgrade =
      "GET /link HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    const hello = (session: Session): Buffer =>
      Buffer.from(
        encodeFrame({
          kind: "hello",
          major: PROTOCOL_MAJOR,
          minor: PROTOCOL_MINOR,
          features: 0,
          role: "seeder",
          sessionId: session.tickets.seeder.sessionId,
          peerKey: randomBytes(32),
          token: session.tickets.seeder.token,
        }),
      );
    const steps: readonly ((session: Session) => Promise<ReturnType<typeof tcp>>)[] = [
      async () => {
        const socket = tcp(port);
        await new Promise((resolve) => socket.once("connect", resolve));
        return socket;
      },
      async () => {
        const socket = tlsSocket(port);
        await secured(socket);
        return socket;
      },
      async () => {
        const socket = tlsSocket(port);
        await secured(socket);
        socket.write(upgrade);
        return socket;
      },
      async () => (await RawWebSocket.open(port)).socket,
      async (session) => {
        const ws = await RawWebSocket.open(port);
        ws.send(wsFrame({ opcode: 2, payload: hello(session).subarray(0, 30) }));
        return ws.socket;
      },
      async (session) => {
        const ws = await RawWebSocket.open(port);
        ws.send(wsFrame({ opcode: 2, payload: hello(session) }));
        await ws.message();
        return ws.socket;
      },
      async (session) => {
        const ws = await RawWebSocket.open(port);
        ws.send(wsFrame({ opcode: 2, payload: hello(session) }));
        await ws.message();
        // The header of a message whose rest never comes.
        ws.send(wsFrame({ opcode: 2, payload: randomBytes(100) }).subarray(0, 40));
        return ws.socket;
      },
    ];
    const ways: readonly ((socket: ReturnType<typeof tcp>) => void)[] = [
      (socket) => socket.end(),
      (socket) => socket.destroy(),
      reset,
    ];
    let ended = 0;
    await scene.during(async (signal) => {
      await Promise.all(
        steps.map(async (step, at) => {
          for (let i = 0; !signal.aborted || i < ways.length; i++) {
            const session = at >= 4 ? await scene.session(key) : undefined;
            // Steps before a hello need none.
            const socket = await step(session ?? ({} as Session));
            ways[i % ways.length]?.(socket);
            ended++;
            if (session !== undefined) {
              await scene.ask(key, "POST", `/v1/sessions/${session.id}:cancel`);
            }
            socket.resume();
            setTimeout(() => socket.destroy(), 500);
          }
        }),
      );
    });
    expect(ended).toBeGreaterThan(steps.length * ways.length);
    // The good one and nobody else.
    const live = async (): Promise<number> => {
      const { body } = await scene.ask(key, "GET", "/v1/limits");
      return body.limits.find(({ name }: { name: string }) => name === "liveSessions").used;
    };
    for (let i = 0; i < 40 && (await live()) > 1; i++) await sleep(250);
    expect(await live()).toBe(1);
  });

  test("(18) streams that are reset by either side end their twin, and no other", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const [seeder, leecher] = await pair(await scene.session(key));
    const open = async (index: number): Promise<readonly [ByteStream, ByteStream]> =>
      await Promise.all([seeder.openStream(index), leecher.openStream(index)]);
    const other = await open(9);
    for (const [index, side] of [
      [2, 0],
      [3, 1],
    ] as const) {
      const ends = await open(index);
      await ends[0].write(Uint8Array.of(1));
      await ends[1].read();
      ends[side].abort("LINK_CLOSED", "test");
      const twin = await ends[1 - side]?.closed;
      expect(twin?.code).not.toBe("OK");
    }
    await other[0].write(Uint8Array.of(7));
    expect(await other[1].read()).toEqual(Uint8Array.of(7));
    await leave(seeder, leecher);
  });

  test("(21) commits that are repeated, stale, or not the leecher's change no owner twice", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const session = await scene.session(key);
    const [seeder, leecher] = await pair(session);
    await leecher.send(
      { kind: "commit", epoch: 4 },
      { kind: "commit", epoch: 4 },
      { kind: "commit", epoch: 3 },
    );
    for (let i = 0; i < 3; i++) {
      expect(await leecher.until("owner")).toMatchObject({ owner: "leecher", ownerEpoch: 4 });
    }
    await leecher.send({ kind: "revoke", reason: "late" });
    expect(await leecher.until("owner")).toMatchObject({ owner: "leecher", ownerEpoch: 4 });
    await seeder.send({ kind: "commit", epoch: 9 });
    expect(await refusal(seeder)).toBe("FRAME_UNEXPECTED");
    const { body } = await scene.ask(key, "GET", `/v1/sessions/${session.id}`);
    expect(body.authority).toEqual({ holder: "leecher", epoch: 4 });
    await leecher.send(
      ...Array.from({ length: 200 }, () => ({ kind: "commit", epoch: 4 }) as const),
    );
    // Bounded: it is told off, or answered one by one.
    expect(["LIMIT_EXCEEDED", "closed", "LINK_CLOSED"]).toContain(await refusal(leecher));
  });

  test("(22) regions and chunks that cannot be are refused", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const text = (value: string): Buffer => {
      const length = Buffer.alloc(2);
      length.writeUInt16LE(value.length);
      return Buffer.concat([length, Buffer.from(value)]);
    };
    const describeFrame = (regionBytes: bigint, chunkBytes: number): Buffer => {
      const numbers = Buffer.alloc(12);
      numbers.writeBigUInt64LE(regionBytes, 0);
      numbers.writeUInt32LE(chunkBytes, 8);
      const payload = Buffer.concat([text("r"), numbers, text("h"), text("1")]);
      const header = Buffer.alloc(5);
      header.writeUInt32LE(payload.length, 0);
      header[4] = 5;
      return Buffer.concat([header, payload]);
    };
    const claims: readonly (readonly [bigint, number])[] = [
      [2n ** 63n, 65_536],
      [2n ** 64n - 1n, 65_536],
      [2n ** 53n, 65_536],
      [0n, 65_536],
      [1n << 20n, 1],
      [1n << 20n, 0],
      [1n << 20n, 65_537],
      [1n << 20n, 2 ** 31],
    ];
    for (const [regionBytes, chunkBytes] of claims) {
      const peer = await (await raw(await scene.session(key), "seeder")).join();
      await peer.stream.write(Uint8Array.from(describeFrame(regionBytes, chunkBytes)));
      expect(await refusal(peer), `${regionBytes}, ${chunkBytes}`).toBe("FRAME_MALFORMED");
    }
    // An index beyond the region, epochs that go back: nothing of it may break the relay or the API.
    const session = await scene.session(key);
    const peer = await (await raw(session, "seeder")).join();
    await peer.stream.write(Uint8Array.from(describeFrame(1n << 20n, 65_536)));
    const hashes = randomBytes(32 * 16);
    const entry = (index: number, epoch: number): Buffer => {
      const numbers = Buffer.alloc(8);
      numbers.writeUInt32LE(index, 0);
      numbers.writeUInt32LE(epoch, 4);
      return Buffer.concat([numbers, randomBytes(32)]);
    };
    await peer.send(
      { kind: "indexSegment", epoch: 5, segment: 0, hashes },
      { kind: "indexSegment", epoch: 1, segment: 0, hashes },
      { kind: "indexSegment", epoch: 5, segment: 4_000_000_000, hashes },
      {
        kind: "indexDelta",
        entries: Buffer.concat([entry(2 ** 32 - 1, 1), entry(3, 0), entry(3, 0)]),
      },
      { kind: "ping", nonce: 1 },
    );
    await Promise.race([refusal(peer), sleep(1_000)]);
    const manifest = await scene.ask(key, "GET", `/v1/sessions/${session.id}/manifest`);
    expect(manifest.status).toBeLessThan(500);
    await scene.stillGood();
    await leave(peer);
  });

  test("(23) progress that is no number, below nothing, and ten thousand times a second", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const bytesOf = (value: number): Uint8Array<ArrayBuffer> => {
      const frame = new Uint8Array(5 + 8 * PROGRESS_FIELDS.length);
      const view = new DataView(frame.buffer);
      view.setUint32(0, frame.length - 5, true);
      frame[4] = 7;
      for (const at of PROGRESS_FIELDS.keys()) view.setFloat64(5 + 8 * at, value, true);
      return frame;
    };
    const session = await scene.session(key);
    const identity = PeerIdentity.generate();
    await leave(await (await raw(session, "leecher", identity)).join());
    const shown = async (): Promise<void> => {
      const { status, body } = await scene.ask(key, "GET", `/v1/sessions/${session.id}`);
      expect(status).toBe(200);
      for (const [field, value] of Object.entries(body.progress ?? {})) {
        // What is no number would be null here, or have broken the answer.
        if (typeof value === "number") expect([field, value >= 0]).toEqual([field, true]);
      }
    };
    for (const value of [NaN, -1, Infinity, -Infinity, 1e308, 2 ** 60, -0]) {
      const peer = await (await raw(session, "leecher", identity)).rejoin();
      await peer.stream.write(bytesOf(value));
      await Promise.race([refusal(peer), sleep(200)]);
      await shown();
      await leave(peer);
    }
    const peer = await (await raw(session, "leecher", identity)).rejoin();
    const burst = Buffer.concat(Array.from({ length: 200 }, (_, i) => bytesOf(i)));
    let sent = 0;
    await scene.during(async (signal) => {
      const beats = alive(signal, peer);
      while (!signal.aborted) {
        await peer.stream.write(Uint8Array.from(burst));
        sent += 200;
        await sleep(10);
      }
      await beats;
    });
    expect(sent).toBeGreaterThan(5_000);
    await shown();
    await leave(peer);
  });

  test("(24) signals of any content are passed on within their bounds, and looked into by nobody", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const [seeder, leecher] = await pair(await scene.session(key));
    let sent = 0;
    await scene.during(async (signal) => {
      while (!signal.aborted) {
        const payload = Buffer.from(
          JSON.stringify({ candidates: ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"] }),
        );
        await seeder.send(
          ...Array.from({ length: 50 }, () => ({ kind: "signal", payload }) as const),
          { kind: "ping", nonce: 1 },
        );
        await leecher.send({ kind: "ping", nonce: 1 });
        sent += 50;
        await sleep(20);
      }
    });
    expect(sent).toBeGreaterThan(1_000);
    await leave(seeder, leecher);
    // 100,000 candidates fit no frame.
    const [other, twin] = await pair(await scene.session(key));
    const header = Buffer.alloc(9);
    header.writeUInt32LE(4 + 400_000, 0);
    header[4] = 0x0e;
    header.writeUInt32LE(400_000, 5);
    await other.stream.write(Uint8Array.from(Buffer.concat([header, Buffer.alloc(400_000)])));
    expect(await refusal(other)).toBe("FRAME_MALFORMED");
    await leave(twin);
  });

  test("(12) no key, token or ticket is in the log, at its most talkative", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const session = await scene.session(key);
    const secret = key.split("_")[2] ?? key;
    for (const path of [
      `/v1/sessions?key=${key}`,
      `/v1/sessions?api_key=${key}&access_token=${key}`,
      `/v1/${key}`,
      `/link?ticket=${encodeTicket(session.tickets.seeder)}`,
    ]) {
      await scene.ask(key, "GET", path);
      // A key in the address is none.
      expect((await scene.ask("", "GET", path)).status).not.toBe(200);
    }
    await scene.ask(`${key.slice(0, -1)}x`, "GET", "/v1/sessions");
    const joined = await (await raw(session, "seeder")).join();
    await leave(joined);
    const log = scene.relay.program.stderr;
    expect(log.length).toBeGreaterThan(1_000);
    const token = Buffer.from(session.tickets.seeder.token);
    for (const text of [secret, token.toString("base64url"), token.toString("hex")]) {
      expect(log.includes(text)).toBe(false);
    }
  });
});

describe("shares and a full node", () => {
  test("(19) a session with many streams does not take what others need", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    await using narrow = await Scene.open({ limits: { nodeBytesPerS: 32 * MIB } });
    const abuser = await narrow.key("abuser");
    const quiet = await narrow.key("quiet");
    let share = 0;
    await narrow.during(async () => {
      const many = await narrow.greedy(abuser, 48);
      const few = await narrow.greedy(quiet, 8);
      const [manyBefore, fewBefore] = [many.bytes, few.bytes];
      // Its own time: it takes a while until all are there.
      await sleep(2_500);
      share = (few.bytes - fewBefore) / (many.bytes - manyBefore);
      await Promise.all([narrow.stop(many), narrow.stop(few)]);
    });
    // By streams it would be a sixth.
    expect(share).toBeGreaterThan(0.5);
    expect(await narrow.throttled("nodeBytesPerS")).toBeGreaterThan(0);
  });

  test("(19) a session keeps to its own rate, and its peers are told once", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    const bytesPerS = 4 * MIB;
    const session = await scene.session(key, { limits: { bytesPerS } });
    const peers = await pair(session);
    const [seeder, leecher] = peers;
    const over = new AbortController();
    const ends = await Promise.all(
      Array.from({ length: 6 }, async (_, i) =>
        Promise.all([seeder.openStream(2 + i), leecher.openStream(2 + i)]),
      ),
    );
    const told = peers.map(async (peer) => {
      let count = 0;
      for (;;) {
        const frame = await peer.next().catch(() => null);
        if (frame === null) return count;
        if (frame.kind !== "throttled") continue;
        expect(frame).toEqual({
          kind: "throttled",
          limitName: "sessionBytesPerS",
          bytesPerS,
          retryInMs: 0,
        });
        count++;
      }
    });
    let moved = 0;
    const pumps = ends.flatMap(([from, to]) => [
      (async () => {
        while (!over.signal.aborted) await from.write(new Uint8Array(64 * 1024));
      })(),
      (async () => {
        for (;;) {
          const piece = await to.read();
          moved += piece?.length ?? 0;
        }
      })(),
    ]);
    // What they wait for ends with the peers.
    for (const pump of pumps) pump.catch(() => {});
    void alive(over.signal, ...peers).catch(() => {});
    // What is under way when it begins, in sockets and buffers, was not held back yet.
    await sleep(1_000);
    const [fromMoved, fromMs] = [moved, performance.now()];
    await sleep(4_000);
    const rate = ((moved - fromMoved) / (performance.now() - fromMs)) * 1_000;
    over.abort();
    await leave(...peers);
    expect(rate / bytesPerS).toBeLessThan(1.15);
    expect(rate / bytesPerS).toBeGreaterThan(0.6);
    expect(await Promise.all(told)).toEqual([1, 1]);
    expect(await scene.throttled("sessionBytesPerS")).toBe(1);
  });

  test("(4) a relay short of descriptors lets in nobody new, and keeps whom it has", async (ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    await using small = await Scene.open({
      relay: { within: ["prlimit", "--nofile=160:160"] },
      limits: { acceptsPerPrefix: 5_000, acceptBurstPerPrefix: 5_000, openFilesPercent: 60 },
    });
    const mine = await small.key("abuser");
    const waiting = await small.session(mine);
    const before = await small.session(mine);
    const here = await (await raw(before, "seeder")).join();
    const leaving = new AbortController();
    const beats = alive(leaving.signal, here);
    const open: ReturnType<typeof tcp>[] = [];
    await small.during(async (signal) => {
      // Past the part at which it takes nobody, and then past all there are.
      while (!signal.aborted) {
        if (open.length < 300) open.push(tcp(small.relay.port, loopback(100 + (open.length % 50))));
        await sleep(4);
      }
      await here.send({ kind: "ping", nonce: 5 });
      await here.until("pong");
    });
    for (const socket of open.splice(200)) socket.destroy();
    for (const socket of open.splice(0)) socket.destroy();
    // Somewhere between: new ones are told, those that are here come back.
    const idle: ReturnType<typeof tlsSocket>[] = [];
    let refused: Awaited<ReturnType<Scene["ask"]>> | undefined;
    for (let i = 0; i < 120 && refused === undefined; i++) {
      const socket = tlsSocket(small.relay.port, loopback(120));
      await secured(socket);
      socket.write("HEAD / HTTP/1.1\r\nHost: relay\r\n\r\n");
      idle.push(socket);
      if (i % 10 < 9) continue;
      await sleep(1_100);
      const answer = await small.ask(mine, "POST", "/v1/sessions", {});
      if (answer.status !== 201) refused = answer;
    }
    expect(refused?.body).toMatchObject({
      status: 429,
      code: "LIMIT_EXCEEDED",
      limitName: "openFilesPercent",
      limit: 60,
    });
    expect(Number(refused?.headers.get("retry-after"))).toBeGreaterThan(0);
    const late = await raw(waiting, "leecher");
    await late.hello(ofTest(waiting).tokens.leecher);
    expect(await late.next()).toMatchObject({
      kind: "throttled",
      limitName: "openFilesPercent",
      retryInMs: 10_000,
    });
    expect(await late.next()).toMatchObject({
      kind: "error",
      code: "LIMIT_EXCEEDED",
      retryable: true,
    });
    leaving.abort();
    await beats;
    await leave(here, late);
    const back = await (await raw(before, "seeder", here.identity)).rejoin();
    expect(back.welcome?.kind).toBe("welcome");
    await leave(back);
    for (const socket of idle) socket.destroy();
    // The ticket is as good as before, once there is room.
    await sleep(1_500);
    const again = await (await raw(waiting, "leecher")).join();
    await leave(again);
  });
});
