/**
 * What decoding costs, counted and not timed: fields read, and bytes asked for.
 *
 * @module
 */
import { ByteReader } from "../../relay/protocol/bytes.ts";

/** Since `reset`. */
export class Meter {
  /** Fields that a `ByteReader` was asked for. */
  steps = 0;
  /** Bytes of new typed arrays; views cost nothing. */
  allocatedBytes = 0;

  /** Counts in this thread from now on: for good, so only where nothing else runs. */
  static install(): Meter {
    const meter = new Meter();
    const prototype = ByteReader.prototype;
    for (const name of ["u8", "u16", "u32", "u53", "f64", "bytes"] as const) {
      // Each takes a number or nothing.
      const read = prototype[name] as (...args: number[]) => unknown;
      Object.defineProperty(prototype, name, {
        value(this: ByteReader, ...args: number[]) {
          meter.steps++;
          return read.apply(this, args);
        },
      });
    }
    for (const name of ["Uint8Array", "Uint32Array"] as const) {
      Object.assign(globalThis, { [name]: counted(meter, globalThis[name]) });
    }
    return meter;
  }

  reset(): void {
    this.steps = 0;
    this.allocatedBytes = 0;
  }
}

function counted<T extends typeof Uint8Array | typeof Uint32Array>(meter: Meter, type: T): T {
  return new Proxy(type, {
    construct(target, args: unknown[]) {
      const [first] = args;
      if (typeof first === "number") meter.allocatedBytes += first * target.BYTES_PER_ELEMENT;
      return Reflect.construct(target, args);
    },
  });
}

/** Bytes that a decoded value holds besides views of its input. */
export function retainedBytes(value: unknown, input: ArrayBufferLike): number {
  if (typeof value === "string") return 2 * value.length;
  if (typeof value !== "object" || value === null) return 8;
  if (ArrayBuffer.isView(value)) return value.buffer === input ? 8 : value.buffer.byteLength;
  let sum = 16;
  for (const part of Object.values(value)) sum += retainedBytes(part, input);
  return sum;
}
