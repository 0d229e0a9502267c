/**
 * Waiting with an end.
 *
 * @module
 */

/** Resolves with the work or after this time, whichever comes first. */
export async function atMost(ms: number, work: Promise<unknown>): Promise<void> {
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work, late]);
  clearTimeout(timer);
}
