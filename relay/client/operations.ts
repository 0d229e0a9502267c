/**
 * Every operation of the relay's REST API: where it is, what it takes and what it answers.
 *
 * The types are those of the schemas that check the requests and describe the answers; `test/relay/client` holds the list to
 * the relay's own OpenAPI document.
 *
 * @module
 */
import type { z } from "zod";

import type { limitsSchema, usageSchema } from "../api/limits.ts";
import type {
  actionBodySchema,
  checksSchema,
  createSessionSchema,
  createdSchema,
  discoverySchema,
  eventPageSchema,
  patchSessionSchema,
  progressAnswerSchema,
  sessionPageSchema,
  sessionSchema,
  versionSchema,
} from "../api/schemas.ts";
import type {
  createEnrollmentSchema,
  createdEnrollmentSchema,
  enrollmentPageSchema,
  enrollmentSchema,
  orderPageSchema,
  orderSchema,
  patchPeerSchema,
  peerPageSchema,
  peerSchema,
  probedSchema,
  regionPageSchema,
} from "../api/schemas/agents.ts";
import type {
  auditPageSchema,
  changeProjectSchema,
  createKeySchema,
  createProjectSchema,
  createdKeySchema,
  keyPageSchema,
  keySchema,
  projectPageSchema,
  projectSchema,
  signInSchema,
  whoamiSchema,
} from "../api/schemas/identity.ts";
import type {
  migrationActionBodySchema,
  migrationOutcomeSchema,
  migrationPageSchema,
  migrationSchema,
  newMigrationBodySchema,
  newMigrationSchema,
} from "../api/schemas/migrations.ts";
import type {
  createWebhookSchema,
  deliveryPageSchema,
  deliverySchema,
  patchWebhookSchema,
  relayNodeSchema,
  relayPageSchema,
  rotateWebhookSchema,
  secretWebhookSchema,
  webhookPageSchema,
  webhookSchema,
} from "../api/schemas/operations.ts";
import type { rotatedSchema } from "../api/session-actions.ts";

/** `id`: there is one in the path. `query`: the names that it takes. */
export interface Operations {
  createDiscoveryToken: { answer: z.output<typeof discoverySchema> };
  signIn: { body: z.input<typeof signInSchema>; answer: z.output<typeof whoamiSchema> };
  signOut: { answer: undefined };
  whoami: { answer: z.output<typeof whoamiSchema> };
  createProject: {
    body: z.input<typeof createProjectSchema>;
    answer: z.output<typeof projectSchema>;
  };
  listProjects: { query: "cursor" | "limit"; answer: z.output<typeof projectPageSchema> };
  getProject: { id: true; answer: z.output<typeof projectSchema> };
  changeProject: {
    id: true;
    body: z.input<typeof changeProjectSchema>;
    answer: z.output<typeof projectSchema>;
  };
  deleteProject: { id: true; answer: undefined };
  createKey: { body: z.input<typeof createKeySchema>; answer: z.output<typeof createdKeySchema> };
  listKeys: { query: "cursor" | "limit" | "projectId"; answer: z.output<typeof keyPageSchema> };
  getKey: { id: true; answer: z.output<typeof keySchema> };
  revokeKey: { id: true; query: "force"; answer: z.output<typeof keySchema> };
  listAudit: {
    query: "cursor" | "limit" | "projectId" | "action";
    answer: z.output<typeof auditPageSchema>;
  };
  createSession: {
    body: z.input<typeof createSessionSchema>;
    answer: z.output<typeof createdSchema>;
  };
  listSessions: {
    query:
      | "cursor"
      | "limit"
      | "state"
      | "label"
      | "peer"
      | "since"
      | "migration"
      | "text"
      | "sort";
    answer: z.output<typeof sessionPageSchema>;
  };
  getSession: { id: true; answer: z.output<typeof sessionSchema> };
  patchSession: {
    id: true;
    body: z.input<typeof patchSessionSchema>;
    answer: z.output<typeof sessionSchema>;
  };
  deleteSession: { id: true; answer: undefined };
  startSession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof sessionSchema>;
  };
  finalizeSession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof sessionSchema>;
  };
  postcopySession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof sessionSchema>;
  };
  pauseSession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof sessionSchema>;
  };
  resumeSession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof sessionSchema>;
  };
  cancelSession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof sessionSchema>;
  };
  recoverSession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof sessionSchema>;
  };
  rotateTicketsSession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof rotatedSchema>;
  };
  checkSession: {
    id: true;
    body: z.input<typeof actionBodySchema>;
    answer: z.output<typeof checksSchema>;
  };
  getSessionProgress: { id: true; answer: z.output<typeof progressAnswerSchema> };
  getSessionChecks: { id: true; answer: z.output<typeof checksSchema> };
  getSessionMap: { id: true; query: "buckets" | "first" | "count"; answer: Uint8Array };
  getSessionManifest: { id: true; answer: Uint8Array };
  listSessionEvents: {
    id: true;
    query: "cursor" | "limit";
    answer: z.output<typeof eventPageSchema>;
  };
  createEnrollment: {
    body: z.input<typeof createEnrollmentSchema>;
    answer: z.output<typeof createdEnrollmentSchema>;
  };
  listEnrollments: { query: "cursor" | "limit"; answer: z.output<typeof enrollmentPageSchema> };
  getEnrollment: { id: true; answer: z.output<typeof enrollmentSchema> };
  deleteEnrollment: { id: true; answer: undefined };
  listPeers: { query: "cursor" | "limit"; answer: z.output<typeof peerPageSchema> };
  getPeer: { id: true; answer: z.output<typeof peerSchema> };
  patchPeer: {
    id: true;
    body: z.input<typeof patchPeerSchema>;
    answer: z.output<typeof peerSchema>;
  };
  deletePeer: { id: true; answer: undefined };
  probePeer: { id: true; answer: z.output<typeof probedSchema> };
  listRegions: { query: "cursor" | "limit" | "peerId"; answer: z.output<typeof regionPageSchema> };
  listOrders: {
    query: "cursor" | "limit" | "peerId" | "sessionId" | "state";
    answer: z.output<typeof orderPageSchema>;
  };
  getOrder: { id: true; answer: z.output<typeof orderSchema> };
  cancelOrder: { id: true; answer: z.output<typeof orderSchema> };
  createMigration: {
    body: z.input<typeof newMigrationSchema>;
    answer: z.output<typeof newMigrationBodySchema>;
  };
  listMigrations: { query: "cursor" | "limit"; answer: z.output<typeof migrationPageSchema> };
  getMigration: { id: true; answer: z.output<typeof migrationSchema> };
  deleteMigration: { id: true; answer: undefined };
  finalizeMigration: {
    id: true;
    body: z.input<typeof migrationActionBodySchema>;
    answer: z.output<typeof migrationOutcomeSchema>;
  };
  cancelMigration: {
    id: true;
    body: z.input<typeof migrationActionBodySchema>;
    answer: z.output<typeof migrationOutcomeSchema>;
  };
  listLimits: { answer: z.output<typeof limitsSchema> };
  getUsage: { query: "from" | "to"; answer: z.output<typeof usageSchema> };
  listRelays: { query: "cursor" | "limit"; answer: z.output<typeof relayPageSchema> };
  getRelay: { id: true; answer: z.output<typeof relayNodeSchema> };
  drainRelay: { id: true; answer: z.output<typeof relayNodeSchema> };
  undrainRelay: { id: true; answer: z.output<typeof relayNodeSchema> };
  getBackup: { answer: Uint8Array };
  createWebhook: {
    body: z.input<typeof createWebhookSchema>;
    answer: z.output<typeof secretWebhookSchema>;
  };
  listWebhooks: { query: "cursor" | "limit"; answer: z.output<typeof webhookPageSchema> };
  getWebhook: { id: true; answer: z.output<typeof webhookSchema> };
  patchWebhook: {
    id: true;
    body: z.input<typeof patchWebhookSchema>;
    answer: z.output<typeof webhookSchema>;
  };
  deleteWebhook: { id: true; answer: undefined };
  listWebhookDeliveries: {
    id: true;
    query: "cursor" | "limit" | "state";
    answer: z.output<typeof deliveryPageSchema>;
  };
  testWebhook: { id: true; answer: z.output<typeof deliverySchema> };
  rotateWebhook: {
    id: true;
    body: z.input<typeof rotateWebhookSchema>;
    answer: z.output<typeof secretWebhookSchema>;
  };
  getVersion: { answer: z.output<typeof versionSchema> };
}

export type OperationName = keyof Operations;

/** Method and path. Event streams have methods of their own. */
export const ROUTES: Readonly<Record<OperationName, string>> = {
  createDiscoveryToken: "POST /v1/discovery",
  signIn: "POST /v1/sign-in",
  signOut: "POST /v1/sign-out",
  whoami: "GET /v1/whoami",
  createProject: "POST /v1/projects",
  listProjects: "GET /v1/projects",
  getProject: "GET /v1/projects/{id}",
  changeProject: "PATCH /v1/projects/{id}",
  deleteProject: "DELETE /v1/projects/{id}",
  createKey: "POST /v1/keys",
  listKeys: "GET /v1/keys",
  getKey: "GET /v1/keys/{id}",
  revokeKey: "DELETE /v1/keys/{id}",
  listAudit: "GET /v1/audit",
  createSession: "POST /v1/sessions",
  listSessions: "GET /v1/sessions",
  getSession: "GET /v1/sessions/{id}",
  patchSession: "PATCH /v1/sessions/{id}",
  deleteSession: "DELETE /v1/sessions/{id}",
  startSession: "POST /v1/sessions/{id}:start",
  finalizeSession: "POST /v1/sessions/{id}:finalize",
  postcopySession: "POST /v1/sessions/{id}:postcopy",
  pauseSession: "POST /v1/sessions/{id}:pause",
  resumeSession: "POST /v1/sessions/{id}:resume",
  cancelSession: "POST /v1/sessions/{id}:cancel",
  recoverSession: "POST /v1/sessions/{id}:recover",
  rotateTicketsSession: "POST /v1/sessions/{id}:rotateTickets",
  checkSession: "POST /v1/sessions/{id}:check",
  getSessionProgress: "GET /v1/sessions/{id}/progress",
  getSessionChecks: "GET /v1/sessions/{id}/checks",
  getSessionMap: "GET /v1/sessions/{id}/map",
  getSessionManifest: "GET /v1/sessions/{id}/manifest",
  listSessionEvents: "GET /v1/sessions/{id}/events",
  createEnrollment: "POST /v1/enrollments",
  listEnrollments: "GET /v1/enrollments",
  getEnrollment: "GET /v1/enrollments/{id}",
  deleteEnrollment: "DELETE /v1/enrollments/{id}",
  listPeers: "GET /v1/peers",
  getPeer: "GET /v1/peers/{id}",
  patchPeer: "PATCH /v1/peers/{id}",
  deletePeer: "DELETE /v1/peers/{id}",
  probePeer: "POST /v1/peers/{id}:probe",
  listRegions: "GET /v1/regions",
  listOrders: "GET /v1/orders",
  getOrder: "GET /v1/orders/{id}",
  cancelOrder: "POST /v1/orders/{id}:cancel",
  createMigration: "POST /v1/migrations",
  listMigrations: "GET /v1/migrations",
  getMigration: "GET /v1/migrations/{id}",
  deleteMigration: "DELETE /v1/migrations/{id}",
  finalizeMigration: "POST /v1/migrations/{id}:finalize",
  cancelMigration: "POST /v1/migrations/{id}:cancel",
  listLimits: "GET /v1/limits",
  getUsage: "GET /v1/usage",
  listRelays: "GET /v1/relays",
  getRelay: "GET /v1/relays/{id}",
  drainRelay: "POST /v1/relays/{id}:drain",
  undrainRelay: "POST /v1/relays/{id}:undrain",
  getBackup: "GET /v1/backup",
  createWebhook: "POST /v1/webhooks",
  listWebhooks: "GET /v1/webhooks",
  getWebhook: "GET /v1/webhooks/{id}",
  patchWebhook: "PATCH /v1/webhooks/{id}",
  deleteWebhook: "DELETE /v1/webhooks/{id}",
  listWebhookDeliveries: "GET /v1/webhooks/{id}/deliveries",
  testWebhook: "POST /v1/webhooks/{id}:test",
  rotateWebhook: "POST /v1/webhooks/{id}:rotate",
  getVersion: "GET /version",
};
