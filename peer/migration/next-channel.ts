/**
 * Opens the channel on a better network while the one before is still served: to agree on keys takes two round trips,
 * in which what is under way on the old one arrives.
 *
 * @module
 */
import type { Channel, ChannelNetwork } from "./channel.ts";

type Open = (network: ChannelNetwork) => Promise<Channel>;

interface Begun {
  readonly network: ChannelNetwork;
  readonly channel: Promise<Channel>;
  settled: boolean;
}

export class NextChannel {
  #ended = false;
  #begun: Begun | undefined;

  /** Whether nothing of it is under way: the one before need not be kept for its sake. */
  get settled(): boolean {
    return this.#begun?.settled !== false;
  }

  /** @throws what `open` throws, now or when it was begun. */
  async open(network: ChannelNetwork, open: Open): Promise<Channel> {
    const begun = this.#begun;
    this.#begun = undefined;
    // A network is told again each time it is asked for, but its end is one.
    const isBegun = begun !== undefined && begun.network.lost === network.lost;
    if (begun !== undefined && !isBegun) drop(begun.channel);
    const channel = await (isBegun ? begun.channel : open(network));
    const { retire } = network;
    const begin = (): void => this.#begin(retire?.next(), open);
    if (retire?.signal.aborted === true) begin();
    else retire?.signal.addEventListener("abort", begin, { once: true });
    channel.lost.addEventListener(
      "abort",
      () => retire?.signal.removeEventListener("abort", begin),
      {
        once: true,
      },
    );
    return channel;
  }

  /** There will be no other. One that was begun ends with its network, which whoever made it closes: broken here, it would look lost. */
  end(): void {
    this.#ended = true;
    this.#begun = undefined;
  }

  #begin(network: ChannelNetwork | undefined, open: Open): void {
    if (network === undefined || this.#begun !== undefined || this.#ended) return;
    const channel = Promise.resolve().then(() => open(network));
    const begun: Begun = { network, channel, settled: false };
    this.#begun = begun;
    // Whoever goes on with it hears why it failed.
    channel
      .catch(() => undefined)
      .finally(() => {
        begun.settled = true;
      });
  }
}

function drop(channel: Promise<Channel>): void {
  channel.then(
    (opened) => opened.abort("it is not needed"),
    () => undefined,
  );
}
