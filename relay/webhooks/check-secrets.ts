/**
 * Whether the secrets in the database are sealed under this relay's key.
 *
 * @module
 */
import type { Database } from "../db/database.ts";
import { someWebhooks } from "../db/webhooks.ts";
import { RelayError } from "../errors.ts";
import type { Log } from "../log.ts";
import type { SecretBox } from "../secret-box.ts";
import { secretUse } from "./deliverer.ts";

/** The newest: a key that was changed shows there. */
const LOOKED_AT = 20;

/**
 * @param operatorsFile Where the key is from, if the operator gave it: then it was meant to fit.
 * @throws RelayError `CONFIG_INVALID`
 */
export async function checkSealedSecrets(
  database: Database,
  secrets: SecretBox,
  log: Log,
  operatorsFile: string | undefined,
): Promise<void> {
  const webhooks = await someWebhooks(database, LOOKED_AT);
  const closed = webhooks.filter(
    ({ id, sealedSecret }) => secrets.open(secretUse(id), sealedSecret) === undefined,
  );
  if (closed.length === 0) return;
  if (operatorsFile !== undefined && closed.length === webhooks.length) {
    throw new RelayError(
      "CONFIG_INVALID",
      `--secret-key-file: ${operatorsFile} is not the key that the database's secrets are sealed under: give that one, or delete the webhooks`,
    );
  }
  log("error", "webhooks whose secret is sealed under another key hear nothing: rotate it", {
    webhooks: closed.map(({ id }) => id).join(" "),
  });
}
