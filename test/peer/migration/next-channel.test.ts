import { expect, test } from "vitest";

import type { Channel, ChannelNetwork } from "../../../peer/migration/channel.ts";
import { NextChannel } from "../../../peer/migration/next-channel.ts";

interface Fake {
  readonly network: ChannelNetwork;
  readonly retire: AbortController;
  next: ChannelNetwork | undefined;
}

function fake(name: string): Fake {
  const retire = new AbortController();
  const made: Fake = {
    retire,
    next: undefined,
    network: {
      linkKind: "memory",
      lost: new AbortController().signal,
      retire: { signal: retire.signal, next: () => made.next, done: () => undefined },
      openStream: () => Promise.reject(new Error(`${name} has no streams`)),
    },
  };
  return made;
}

function world(): {
  readonly opened: ChannelNetwork[];
  readonly dropped: string[];
  readonly next: NextChannel;
  readonly open: (network: ChannelNetwork) => Promise<Channel>;
} {
  const opened: ChannelNetwork[] = [];
  const dropped: string[] = [];
  const open = (network: ChannelNetwork): Promise<Channel> => {
    opened.push(network);
    // No more of a channel is looked at here.
    const channel = {
      lost: new AbortController().signal,
      abort: (reason: string) => dropped.push(reason),
    } as unknown as Channel;
    return Promise.resolve(channel);
  };
  return { opened, dropped, next: new NextChannel(), open };
}

test("NextChannel opens the better network when this one is to be left, and hands that channel out", async () => {
  const { opened, dropped, next, open } = world();
  const [relayed, direct] = [fake("relayed"), fake("direct")];
  await next.open(relayed.network, open);
  expect(opened).toEqual([relayed.network]);
  relayed.next = direct.network;
  relayed.retire.abort();
  await Promise.resolve();
  expect(opened).toEqual([relayed.network, direct.network]);
  // Asked for again it is another object.
  await next.open({ ...direct.network }, open);
  expect(opened).toHaveLength(2);
  next.end();
  expect(dropped).toEqual([]);
});

test("NextChannel drops what it has opened when the migration goes another way, and leaves it to its network when it ends", async () => {
  const { opened, dropped, next, open } = world();
  const [relayed, direct, again] = [fake("relayed"), fake("direct"), fake("again")];
  relayed.next = direct.network;
  relayed.retire.abort();
  await next.open(relayed.network, open);
  again.next = direct.network;
  await next.open(again.network, open);
  await new Promise((resolve) => setImmediate(resolve));
  expect(dropped).toHaveLength(1);
  again.retire.abort();
  next.end();
  await new Promise((resolve) => setImmediate(resolve));
  // Broken by us it would look like a path that was lost.
  expect(dropped).toHaveLength(1);
  expect(opened).toEqual([relayed.network, direct.network, again.network, direct.network]);
  // Over is over.
  await next.open(relayed.network, open);
  await new Promise((resolve) => setImmediate(resolve));
  expect(opened.at(-1)).toBe(relayed.network);
});

test("NextChannel tells why the better network failed to whoever goes on with it, and nobody else", async () => {
  const { next, open } = world();
  const [relayed, direct] = [fake("relayed"), fake("direct")];
  relayed.next = direct.network;
  await next.open(relayed.network, (network) =>
    network === direct.network ? Promise.reject(new Error("broken")) : open(network),
  );
  relayed.retire.abort();
  await new Promise((resolve) => setImmediate(resolve));
  await expect(next.open(direct.network, open)).rejects.toThrow("broken");
  // And it is not remembered.
  await next.open(direct.network, open);
});
