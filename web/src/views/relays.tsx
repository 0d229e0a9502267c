/**
 * The relay's nodes: what they carry, and how to empty one before it is restarted.
 *
 * @module
 */
import type { ReactNode } from "react";

import { useMay } from "../data/account.ts";
import { change } from "../data/api.ts";
import { useResource } from "../data/resource.ts";
import type { RelayNodeBody } from "../../../relay/app.ts";
import { ago, bytes, count, percent, plural, rate, UNKNOWN } from "../format.ts";
import { useAsk } from "../ui/dialog.tsx";
import { useNow } from "../ui/now.ts";
import { Card, Tag } from "../ui/parts.tsx";
import { ResourceTable } from "../ui/table.tsx";

export function RelaysView(): ReactNode {
  const { resource, reload } = useResource<{ relays: readonly RelayNodeBody[] }>(
    "v1/relays",
    2_000,
  );
  const { ask } = useAsk();
  const nowMs = useNow();
  const operator = useMay("operator");
  const move = (node: RelayNodeBody, to: "drain" | "undrain"): void =>
    ask(
      to === "drain"
        ? {
            title: `Drain ${node.name || node.url}`,
            consequence: `It takes no new sessions and says so to load balancers. ${plural(node.load?.sessions ?? 0, "session")} go on until they end or move; stop it when the number is 0.`,
            confirm: "Drain",
            dangerous: false,
          }
        : {
            title: `Take ${node.name || node.url} back`,
            consequence: "It takes new sessions again.",
            confirm: "Undrain",
            dangerous: false,
          },
      async () => {
        await change("POST", `v1/relays/${node.id}:${to}`, {});
        reload();
        return to === "drain" ? "It drains." : "It takes sessions again.";
      },
    );
  return (
    <>
      <div className="view-head">
        <h1>Relay nodes</h1>
      </div>
      <Card title="Nodes">
        <ResourceTable
          label="Nodes"
          resource={resource}
          rowsOf={({ relays }) => relays}
          keyOf={({ id }) => id}
          emptyTitle="No node has reported yet"
          empty="A node says that it is there every few seconds."
          columns={[
            {
              label: "node",
              cell: (node) => (
                <>
                  <strong>{node.name || new URL(node.url).host}</strong>
                  {node.isThis ? <span className="soft"> this one</span> : null}
                </>
              ),
            },
            { label: "zone", cell: ({ zone }) => zone || UNKNOWN },
            { label: "state", cell: (node) => <NodeState node={node} /> },
            { label: "sessions", numeric: true, cell: ({ load }) => count(load?.sessions) },
            { label: "relayed", numeric: true, cell: ({ load }) => rate(load?.bytesPerS) },
            { label: "CPU", numeric: true, cell: ({ load }) => percent(load?.cpuRatio, 0) },
            { label: "memory", numeric: true, cell: ({ load }) => bytes(load?.memoryBytes) },
            {
              label: "files",
              numeric: true,
              cell: ({ load }) =>
                load === null || load.openFilesMax === 0
                  ? UNKNOWN
                  : percent(load.openFiles / load.openFilesMax, 0),
            },
            { label: "version", cell: ({ version }) => version },
            {
              label: "heard of",
              numeric: true,
              cell: ({ heartbeatAt }) => ago(heartbeatAt, nowMs),
            },
            {
              label: "",
              cell: (node) =>
                operator &&
                node.state !== "lost" && (
                  <button
                    type="button"
                    className="quiet small"
                    onClick={() =>
                      move(node, node.wantedState === "draining" ? "undrain" : "drain")
                    }
                  >
                    {node.wantedState === "draining" ? "Undrain…" : "Drain…"}
                  </button>
                ),
            },
          ]}
        />
      </Card>
    </>
  );
}

function NodeState({ node: { state, load } }: { readonly node: RelayNodeBody }): ReactNode {
  if (state === "lost") return <Tag tone="bad">lost</Tag>;
  if (state === "active") return <Tag tone="good">active</Tag>;
  const left = load?.sessions ?? 0;
  return <Tag tone="warn">{left === 0 ? "drained" : `draining, ${left} left`}</Tag>;
}
