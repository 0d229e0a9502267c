ALTER TABLE "peer" ADD COLUMN "directories" jsonb DEFAULT '[]'::jsonb NOT NULL;--> statement-breakpoint
ALTER TABLE "peer" ADD COLUMN "exports" jsonb DEFAULT '[]'::jsonb NOT NULL;--> statement-breakpoint
ALTER TABLE "peer" ADD COLUMN "problems" jsonb DEFAULT '[]'::jsonb NOT NULL;--> statement-breakpoint
ALTER TABLE "peer" ADD COLUMN "connection_id" uuid;--> statement-breakpoint
ALTER TABLE "peer_order" ADD COLUMN "expires_at" timestamp (3) with time zone NOT NULL;--> statement-breakpoint
CREATE INDEX "peer_order_project" ON "peer_order" USING btree ("project_id","created_at" DESC NULLS LAST,"id" DESC NULLS LAST);