/**
 * Where a browser says that a request comes from.
 *
 * @module
 */

/**
 * Whether an `Origin` is the relay's own.
 *
 * @param host The `Host` header: what the browser believes to talk to.
 */
export function isOwnOrigin(origin: string, host: string | undefined): boolean {
  return host !== undefined && URL.canParse(origin) && new URL(origin).host === host.toLowerCase();
}
