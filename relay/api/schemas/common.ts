/**
 * Parts that the bodies of several resources are made of.
 *
 * @module
 */
import { z } from "@hono/zod-openapi";

/** Text for one line: whoever shows it need not think of terminals. */
export const line = (charsMax: number) =>
  z
    .string()
    .max(charsMax)
    // oxlint-disable-next-line no-control-regex -- these are the characters to refuse
    .regex(/^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$/, "must not contain control characters")
    .refine((text) => text.isWellFormed(), "must be whole Unicode characters");

export const positive = (max: number) => z.int().min(1).max(max);

export const instant = z.iso.datetime().openapi({ example: "2026-11-22T21:08:26.123Z" });

/** 16 bytes, as every identifier but a peer's. */
export const hexIdSchema = z
  .string()
  .regex(/^[0-9a-f]{32}$/)
  .openapi({ example: "6f1c3f0a9d2b4c5e8a7b6c5d4e3f2a1b" });

const LABELS_MAX = 32;
export const labelsSchema = z
  .record(z.string().regex(/^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/), line(128))
  .refine((labels) => Object.keys(labels).length <= LABELS_MAX, `at most ${LABELS_MAX} labels`);
