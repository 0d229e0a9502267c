/**
 * What is taken when nothing is said.
 *
 * @module
 */
export const DEFAULTS = {
  listen: "127.0.0.1:8443",
  dashboard: "127.0.0.1:8444",
  acmeDirectory: "https://acme-v02.api.letsencrypt.org/directory",
  acmeStagingDirectory: "https://acme-staging-v02.api.letsencrypt.org/directory",
  acmeChallenge: "0.0.0.0:80",
  drainWaitS: 5,
  retentionDays: 90,
  auditRetentionDays: 400,
} as const;
