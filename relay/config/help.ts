/**
 * `memferry relay --help`.
 *
 * @module
 */
import { LOG_LEVELS } from "../log.ts";
import { DEFAULTS } from "./defaults.ts";

export const HELP = `Usage: memferry relay [options]

Runs the relay: it pairs seeders with leechers, copies what they send without being able to read it, and
serves the REST API and the console.

Options:
  --config FILE           options by their names below, as TOML: listen = "0.0.0.0:443"
  --check-config          name everything that is wrong with the options, the files, the ports and the
                          database, and end: with status 0 if nothing is, else 2
  --listen HOST:PORT      TLS for peers and the API, TCP and UDP (default ${DEFAULTS.listen})
  --dashboard HOST:PORT   the console over plain HTTP, on a loopback address, or "off"
                          (default ${DEFAULTS.dashboard})
  --data DIR              keys, certificate and the embedded database
                          (default \${XDG_STATE_HOME:-~/.local/state}/memferry/relay)
  --database-url URL      a PostgreSQL in place of the embedded database; other users can see flags,
  --database-url-file F   so put a password into DATABASE_URL, or into a file
  --secret-key-file FILE  32 random bytes in base64 that seal what the database must not show, such as
                          webhooks' secrets; the same for all relays of a database
                          (default: made in the data directory)
  --public-url URL        how peers reach the relay, if not at --listen: https://HOST[:PORT]
  --name, --zone TEXT     what the relay is called in the list of relays, and where it stands
  --discovery-ports A,B   UDP ports where peers learn their own address, for direct paths, or "none"
                          (default: the two after --listen's)
  --limits NAME=VALUE,... bounds other than the defaults in docs/limits.md: handshakeMs=5000
  --no-webtransport       WebSocket alone
  --no-user-config        leave \${XDG_CONFIG_HOME:-~/.config}/memferry/config.json as it is
  --drain-wait SECONDS    how long a relay that goes down lets data in flight arrive
                          (default ${DEFAULTS.drainWaitS})
  --retention DAYS        how long ended sessions, events, orders and deliveries are kept; 0: for ever
                          (default ${DEFAULTS.retentionDays})
  --audit-retention DAYS  the same for the audit log (default ${DEFAULTS.auditRetentionDays})
  --log-level LEVEL       ${LOG_LEVELS.join(", ")} (default info)
  --json                  one line {"event":"ready",...} on standard output, the log as JSON
  -h, --help              this text

Certificate, one of three; without the others self-signed, and tickets carry its hash:
  --certificate FILE      a certificate (PEM, the leaf first) that peers' trust stores accept;
  --private-key FILE      and its key. Both are read again when they change
  --acme-domains A,B      or: have one issued for these names, by ACME
  --acme-agree-terms      you agree to the terms of the authority that issues it
  --acme-email ADDRESS    whom the authority may write to
  --acme-directory URL    the authority (default ${DEFAULTS.acmeDirectory}),
                          or "staging" for Let's Encrypt's test authority
  --acme-ca-file FILE     certificates (PEM) that the authority's own API is trusted by
  --acme-challenge H:P    where the authority finds the proof, plain HTTP: port 80 of each name has to
                          lead here (default ${DEFAULTS.acmeChallenge})

Webhooks:
  --webhook-allow A,B     addresses that webhooks may go to although they are not public: 10.0.0.0/8
  --webhook-http          let webhooks go to http:// as well

In the file, --no-webtransport is webtransport = false, and lists are ["a", "b"].

Environment:
  each option is MEMFERRY_ and its name, as MEMFERRY_PUBLIC_URL, switches with true or false; except
  DATABASE_URL. Flags win over the environment, and that over the file.

Exit status:
  0 after SIGTERM or SIGINT, 1 if it could not start, 2 if it was called wrongly.
`;
