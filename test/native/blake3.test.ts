import { beforeEach, expect, test } from "vitest";

import { skipUnless } from "../support/requires.ts";
import { native, requireNative } from "./support/exports.ts";

beforeEach((ctx) => skipUnless(ctx, requireNative()));

// From the official test_vectors.json: input is 0, 1, ... 250, 0, 1, ...
const key = new TextEncoder().encode("whats the Elvish word for friend");
const vectors = [
  {
    bytes: 0,
    hash: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    keyed: "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
  },
  {
    bytes: 1,
    hash: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    keyed: "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
  },
  {
    bytes: 1024,
    hash: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    keyed: "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4",
  },
  {
    bytes: 1025,
    hash: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    keyed: "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69",
  },
  {
    bytes: 31_744,
    hash: "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47",
    keyed: "efa53b389ab67c593dba624d898d0f7353ab99e4ac9d42302ee64cbf9939a419",
  },
  {
    bytes: 102_400,
    hash: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
    keyed: "1c35d1a5811083fd7119f5d5d1ba027b4d01c0c6c49fb6ff2cf75393ea5db4a7",
  },
];

test.each(vectors)("blake3() of $bytes bytes is the official vector", ({ bytes, hash, keyed }) => {
  const input = Uint8Array.from({ length: bytes }, (_, index) => index % 251);
  expect(Buffer.from(native().blake3(input)).toString("hex")).toBe(hash);
  expect(Buffer.from(native().blake3(input, key)).toString("hex")).toBe(keyed);
});

test("blake3() refuses a key that is not 32 bytes", () => {
  expect(() => native().blake3(new Uint8Array(1), new Uint8Array(31))).toThrow(TypeError);
});
