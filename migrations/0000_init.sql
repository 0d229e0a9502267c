CREATE TABLE "api_key" (
	"id" uuid PRIMARY KEY NOT NULL,
	"project_id" uuid NOT NULL,
	"name" text NOT NULL,
	"prefix" text NOT NULL,
	"secret_hash" "bytea" NOT NULL,
	"scopes" jsonb NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp (3) with time zone,
	"revoked_at" timestamp (3) with time zone,
	"last_used_at" timestamp (3) with time zone,
	CONSTRAINT "api_key_prefix_unique" UNIQUE("prefix")
);
--> statement-breakpoint
CREATE TABLE "project" (
	"id" uuid PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "project_name_unique" UNIQUE("name")
);
--> statement-breakpoint
CREATE TABLE "region" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "region_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"session_id" uuid NOT NULL,
	"chunk_count" bigint NOT NULL,
	"base_gen" bigint DEFAULT 0 NOT NULL,
	"claimed_gen" bigint DEFAULT 0 NOT NULL,
	"rewrite_count" bigint DEFAULT 0 NOT NULL,
	"delta_seq" bigint DEFAULT 0 NOT NULL,
	"delta_bytes" bigint DEFAULT 0 NOT NULL,
	"delta_digest" "bytea"
);
--> statement-breakpoint
CREATE TABLE "region_delta" (
	"region_id" bigint NOT NULL,
	"seq" bigint NOT NULL,
	"first_chunk" bigint NOT NULL,
	"last_chunk" bigint NOT NULL,
	"entries" "bytea" NOT NULL,
	CONSTRAINT "region_delta_region_id_seq_pk" PRIMARY KEY("region_id","seq")
);
--> statement-breakpoint
CREATE TABLE "region_segment" (
	"region_id" bigint NOT NULL,
	"gen" bigint NOT NULL,
	"segment" integer NOT NULL,
	"epoch" bigint NOT NULL,
	"hashes" "bytea" NOT NULL,
	"epochs" "bytea",
	CONSTRAINT "region_segment_region_id_gen_segment_pk" PRIMARY KEY("region_id","gen","segment")
);
--> statement-breakpoint
CREATE TABLE "relay_instance" (
	"id" uuid PRIMARY KEY NOT NULL,
	"url" text NOT NULL,
	"version" text NOT NULL,
	"started_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"heartbeat_at" timestamp (3) with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "session" (
	"id" uuid PRIMARY KEY NOT NULL,
	"project_id" uuid NOT NULL,
	"name" text NOT NULL,
	"labels" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"state" text DEFAULT 'pending' NOT NULL,
	"reason_code" text DEFAULT '' NOT NULL,
	"reason_message" text DEFAULT '' NOT NULL,
	"mode" text DEFAULT 'live' NOT NULL,
	"limits" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"region_name" text,
	"region_bytes" bigint,
	"chunk_bytes" integer,
	"chunk_count" bigint,
	"root_hash" "bytea",
	"root_epoch" bigint,
	"seeder" jsonb,
	"leecher" jsonb,
	"owner" text DEFAULT 'seeder' NOT NULL,
	"owner_epoch" bigint DEFAULT 0 NOT NULL,
	"progress" jsonb,
	"progress_at" timestamp (3) with time zone,
	"times" jsonb DEFAULT '{}'::jsonb NOT NULL,
	"event_seq" integer DEFAULT 0 NOT NULL,
	"created_by" text NOT NULL,
	"version" integer DEFAULT 1 NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"ended_at" timestamp (3) with time zone,
	CONSTRAINT "session_owner" CHECK ("session"."owner" in ('seeder', 'leecher')),
	CONSTRAINT "session_cancelled_owner" CHECK ("session"."state" <> 'cancelled' or "session"."owner" = 'seeder'),
	CONSTRAINT "session_done_owner" CHECK ("session"."state" <> 'done' or "session"."owner" = 'leecher')
);
--> statement-breakpoint
CREATE TABLE "session_event" (
	"session_id" uuid NOT NULL,
	"seq" integer NOT NULL,
	"at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"type" text NOT NULL,
	"data" jsonb DEFAULT '{}'::jsonb NOT NULL,
	CONSTRAINT "session_event_session_id_seq_pk" PRIMARY KEY("session_id","seq")
);
--> statement-breakpoint
CREATE TABLE "ticket" (
	"session_id" uuid NOT NULL,
	"role" text NOT NULL,
	"token_hash" "bytea" NOT NULL,
	"expires_at" timestamp (3) with time zone NOT NULL,
	"used_at" timestamp (3) with time zone,
	"peer_key" "bytea",
	CONSTRAINT "ticket_session_role" UNIQUE("session_id","role"),
	CONSTRAINT "ticket_used_by_a_key" CHECK (("ticket"."used_at" is null) = ("ticket"."peer_key" is null))
);
--> statement-breakpoint
CREATE TABLE "usage" (
	"session_id" uuid PRIMARY KEY NOT NULL,
	"project_id" uuid NOT NULL,
	"bytes_from_seeder" bigint DEFAULT 0 NOT NULL,
	"bytes_from_leecher" bigint DEFAULT 0 NOT NULL,
	"updated_at" timestamp (3) with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "api_key" ADD CONSTRAINT "api_key_project_id_project_id_fk" FOREIGN KEY ("project_id") REFERENCES "public"."project"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "region" ADD CONSTRAINT "region_session_id_session_id_fk" FOREIGN KEY ("session_id") REFERENCES "public"."session"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "region_delta" ADD CONSTRAINT "region_delta_region_id_region_id_fk" FOREIGN KEY ("region_id") REFERENCES "public"."region"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "region_segment" ADD CONSTRAINT "region_segment_region_id_region_id_fk" FOREIGN KEY ("region_id") REFERENCES "public"."region"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "session" ADD CONSTRAINT "session_project_id_project_id_fk" FOREIGN KEY ("project_id") REFERENCES "public"."project"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "session_event" ADD CONSTRAINT "session_event_session_id_session_id_fk" FOREIGN KEY ("session_id") REFERENCES "public"."session"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ticket" ADD CONSTRAINT "ticket_session_id_session_id_fk" FOREIGN KEY ("session_id") REFERENCES "public"."session"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "usage" ADD CONSTRAINT "usage_session_id_session_id_fk" FOREIGN KEY ("session_id") REFERENCES "public"."session"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "api_key_project" ON "api_key" USING btree ("project_id");--> statement-breakpoint
CREATE UNIQUE INDEX "region_session" ON "region" USING btree ("session_id");--> statement-breakpoint
CREATE INDEX "session_project_created" ON "session" USING btree ("project_id","created_at" DESC NULLS LAST,"id" DESC NULLS LAST);--> statement-breakpoint
CREATE INDEX "session_project_state" ON "session" USING btree ("project_id","state");