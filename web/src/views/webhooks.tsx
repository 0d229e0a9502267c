/**
 * Who is told what happens, and whether it arrived.
 *
 * @module
 */
import { useState, type FormEvent, type ReactNode } from "react";

import { change } from "../data/api.ts";
import { useResource } from "../data/resource.ts";
import type { DeliveryBody, WebhookBody } from "../../../relay/app.ts";
import { count, moment, UNKNOWN } from "../format.ts";
import { hrefOf, usePlace } from "../location.ts";
import { useAsk } from "../ui/dialog.tsx";
import { Card, Copyable, Tag } from "../ui/parts.tsx";
import { ResourceTable } from "../ui/table.tsx";

export function WebhooksView(): ReactNode {
  const { resource, reload } = useResource<{ webhooks: readonly WebhookBody[] }>(
    "v1/webhooks",
    15_000,
  );
  const [secret, setSecret] = useState<string>();
  const { ask, tell } = useAsk();
  const { query } = usePlace();
  const shown = query["of"];

  const test = (hook: WebhookBody): void => {
    change("POST", `v1/webhooks/${hook.id}:test`, {}).then(
      () => tell("A test event is on its way: see its deliveries."),
      (error: unknown) => tell(error instanceof Error ? error.message : String(error), true),
    );
  };
  return (
    <>
      <div className="view-head">
        <h1>Webhooks</h1>
      </div>
      {secret !== undefined && (
        <div className="secret" role="alert">
          <strong>The secret that signs deliveries. Copy it now: it is shown this once.</strong>
          <Copyable text={secret} label="the secret" />
          <div>
            <button type="button" className="quiet small" onClick={() => setSecret(undefined)}>
              I have it
            </button>
          </div>
        </div>
      )}
      <NewWebhook
        onMade={(made) => {
          setSecret(made);
          reload();
        }}
      />
      <Card title="Webhooks">
        <ResourceTable
          label="Webhooks"
          resource={resource}
          rowsOf={({ webhooks }) => webhooks}
          keyOf={({ id }) => id}
          emptyTitle="Nobody is told"
          empty="Add an address above, and it is told of every event that you name."
          columns={[
            { label: "address", cell: ({ url }) => <code>{url}</code> },
            { label: "events", cell: ({ eventTypes }) => eventTypes.join(", ") },
            {
              label: "state",
              cell: ({ enabled }) => (
                <Tag tone={enabled ? "good" : "idle"}>{enabled ? "on" : "off"}</Tag>
              ),
            },
            {
              label: "",
              cell: (hook) => (
                <span className="buttons">
                  <a className="button quiet small" href={hrefOf("webhooks", { of: hook.id })}>
                    Deliveries
                  </a>
                  <button type="button" className="quiet small" onClick={() => test(hook)}>
                    Test
                  </button>
                  <button
                    type="button"
                    className="quiet small"
                    onClick={() =>
                      ask(
                        {
                          title: "New secret",
                          consequence:
                            "A new secret signs from now on, and is shown once. For a day deliveries carry the old signature, too.",
                          confirm: "Make a new secret",
                          dangerous: false,
                        },
                        async () => {
                          const made = await change<{ secret: string }>(
                            "POST",
                            `v1/webhooks/${hook.id}:rotate`,
                            { previousForS: 86_400 },
                          );
                          setSecret(made.secret);
                          reload();
                          return "There is a new secret.";
                        },
                      )
                    }
                  >
                    Rotate…
                  </button>
                  <button
                    type="button"
                    className="danger small"
                    onClick={() =>
                      ask(
                        {
                          title: `Delete the webhook`,
                          consequence: `${hook.url} hears nothing more, and what was not delivered yet is dropped.`,
                          confirm: "Delete",
                          dangerous: true,
                        },
                        async () => {
                          await change("DELETE", `v1/webhooks/${hook.id}`);
                          reload();
                          return "The webhook is deleted.";
                        },
                      )
                    }
                  >
                    Delete…
                  </button>
                </span>
              ),
            },
          ]}
        />
      </Card>
      {shown !== undefined && <Deliveries id={shown} />}
    </>
  );
}

function NewWebhook({ onMade }: { readonly onMade: (secret: string) => void }): ReactNode {
  const [url, setUrl] = useState("");
  const [types, setTypes] = useState("session.*");
  const { tell } = useAsk();
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    const eventTypes = types.split(/[\s,]+/).filter(Boolean);
    change<{ secret: string }>("POST", "v1/webhooks", { url, eventTypes }).then(
      (made) => {
        setUrl("");
        onMade(made.secret);
      },
      (error: unknown) => tell(error instanceof Error ? error.message : String(error), true),
    );
  };
  return (
    <Card title="New webhook">
      <form className="form" onSubmit={submit}>
        <label>
          Address
          <input
            type="url"
            required
            placeholder="https://hooks.example.org/memferry"
            value={url}
            onChange={(event) => setUrl(event.target.value)}
          />
        </label>
        <label>
          Events
          <input required value={types} onChange={(event) => setTypes(event.target.value)} />
        </label>
        <div className="wide">
          <button type="submit" className="primary">
            Add
          </button>
        </div>
      </form>
    </Card>
  );
}

function Deliveries({ id }: { readonly id: string }): ReactNode {
  const { resource } = useResource<{ deliveries: readonly DeliveryBody[] }>(
    `v1/webhooks/${id}/deliveries?limit=100`,
    3_000,
  );
  return (
    <Card title="Deliveries" aside={<a href={hrefOf("webhooks")}>close</a>}>
      <ResourceTable
        label="Deliveries"
        resource={resource}
        rowsOf={({ deliveries }) => deliveries}
        keyOf={(delivery) => delivery.id}
        emptyTitle="Nothing was sent yet"
        empty="Press Test to send something now."
        columns={[
          { label: "event", cell: ({ type }) => type },
          {
            label: "state",
            cell: ({ state }) => (
              <Tag tone={state === "delivered" ? "good" : state === "failed" ? "bad" : "busy"}>
                {state}
              </Tag>
            ),
          },
          { label: "answer", numeric: true, cell: ({ statusCode }) => statusCode ?? UNKNOWN },
          { label: "attempts", numeric: true, cell: ({ attempts }) => count(attempts) },
          { label: "problem", cell: ({ problem }) => problem || UNKNOWN },
          { label: "next attempt", cell: ({ nextAttemptAt }) => moment(nextAttemptAt) },
          { label: "made", cell: ({ createdAt }) => moment(createdAt) },
        ]}
      />
    </Card>
  );
}
