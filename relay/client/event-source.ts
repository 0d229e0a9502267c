/**
 * Server-sent events as the HTML standard has them, read from a body.
 *
 * @module
 */
export interface ServerEvent {
  readonly type: string;
  /** Where to go on: `Last-Event-ID`. */
  readonly id: string | undefined;
  readonly data: string;
}

/** An event is no longer than this. */
const EVENT_CHARS_MAX = 16 * 1024 * 1024;

/** @throws RangeError an event that is too long */
export async function* eventsOf(
  body: ReadableStream<Uint8Array>,
  signal?: AbortSignal,
): AsyncIterableIterator<ServerEvent> {
  const reader = body.getReader();
  const stop = (): void => void reader.cancel().catch(() => undefined);
  signal?.addEventListener("abort", stop, { once: true });
  const decoder = new TextDecoder();
  let rest = "";
  let [type, data] = ["message", [] as string[]];
  let id: string | undefined;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      if (rest.length > EVENT_CHARS_MAX) throw new RangeError("an event of the relay is too long");
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield { type, id, data: data.join("\n") };
          [type, data] = ["message", []];
          continue;
        }
        const [, field = "", text = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
        if (field === "event") type = text;
        if (field === "data") data.push(text);
        if (field === "id" && !text.includes("\0")) id = text;
      }
    }
  } finally {
    signal?.removeEventListener("abort", stop);
    // Whoever stops listening lets the connection go.
    await reader.cancel().catch(() => undefined);
  }
}
