ALTER TABLE "session" ADD COLUMN "hold" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "session" ADD COLUMN "deadline_at" timestamp (3) with time zone;--> statement-breakpoint
ALTER TABLE "session" ADD COLUMN "percent_sent" double precision DEFAULT 0 NOT NULL;--> statement-breakpoint
CREATE INDEX "session_deadline" ON "session" USING btree ("deadline_at");