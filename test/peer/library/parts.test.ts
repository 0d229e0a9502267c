/** What the library's two threads are made of. */
import { expect, test } from "vitest";
import { NativeError } from "../../../native/index.ts";
import { MigrationError } from "../../../peer/errors.ts";
import { EventLog, type SessionEvent } from "../../../peer/library/event-log.ts";
import { HookRunner } from "../../../peer/library/hooks.ts";
import { EVENTS_QUEUED_MAX } from "../../../peer/library/limits.ts";
import { packError, unpackError } from "../../../peer/library/thrown.ts";
import { ApiError } from "../../../peer/net/api-client.ts";
import { LinkError } from "../../../peer/net/errors.ts";
import { ProtocolError } from "../../../relay/protocol/errors.ts";

const round = (number: number): SessionEvent => ({
  event: "round",
  round: number,
  dirtyBytes: 0,
  dirtyBytesPerS: 0,
});

test("unpackError() gives back class, code, message and causes of what packError() was given", () => {
  const cause = new NativeError("ENOSPC", "the disk is full");
  for (const error of [
    new MigrationError("STORE_FULL", "no room", { cause }),
    new ProtocolError("TICKET_USED", "used", { cause }),
    new LinkError("RELAY_UNREACHABLE", "nobody there", { cause }),
    new NativeError("EBUSY", "in use", { cause }),
  ]) {
    // As it is when it has been to another thread.
    const back = unpackError(structuredClone(packError(error)));
    expect(back).toBeInstanceOf(error.constructor);
    expect(back).toMatchObject({ name: error.name, code: error.code, message: error.message });
    expect(back.cause).toBeInstanceOf(NativeError);
    expect(back.cause).toMatchObject({ code: "ENOSPC" });
  }
  expect(unpackError(packError(new ApiError(401, "UNAUTHORIZED", "no")))).toMatchObject({
    status: 401,
    code: "UNAUTHORIZED",
  });
  expect(unpackError(packError("a text")).message).toBe("a text");
  const circle = new Error("it causes itself");
  circle.cause = circle;
  expect(unpackError(packError(circle)).message).toBe("it causes itself");
});

test("EventLog.events() begins with the past and ends with the session", async () => {
  const log = new EventLog();
  log.emit(round(1));
  const heard: unknown[] = [];
  const off = log.on("round", (event) => heard.push(event.round));
  const all: number[] = [];
  const reading = (async () => {
    for await (const event of log.events()) if (event.event === "round") all.push(event.round);
  })();
  log.emit(round(2));
  off();
  log.emit(round(3));
  log.close();
  await reading;
  expect(all).toEqual([1, 2, 3]);
  expect(heard).toEqual([2]);
  const late: SessionEvent[] = [];
  for await (const event of log.events()) late.push(event);
  expect(late).toHaveLength(3);
});

test("EventLog keeps a bounded number for who does not look, and says how many are lost", async () => {
  const log = new EventLog();
  const events = log.events();
  log.emit(round(0));
  await events.next();
  const lost = 10;
  for (let i = 1; i <= EVENTS_QUEUED_MAX + lost; i++) log.emit(round(i));
  expect((await events.next()).value).toEqual({ event: "dropped", count: lost });
  expect((await events.next()).value).toEqual(round(lost + 1));
  await events.return();
});

test("HookRunner runs a rollback only after the suspend before it has stopped", async () => {
  const hooks = new HookRunner();
  const told = new AbortController();
  const order: string[] = [];
  const suspend = hooks.run(async (signal) => {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    await new Promise((resolve) => setTimeout(resolve, 20));
    order.push("suspended");
  }, told.signal);
  const rollback = hooks.run(() => void order.push("rolled back"), new AbortController().signal);
  await new Promise((resolve) => setTimeout(resolve, 0));
  told.abort();
  await Promise.all([suspend, rollback]);
  expect(order).toEqual(["suspended", "rolled back"]);
});
