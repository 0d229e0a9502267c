ALTER TABLE "region" ADD COLUMN "base_root" "bytea";--> statement-breakpoint
ALTER TABLE "region" ADD COLUMN "base_root_segments" integer;--> statement-breakpoint
ALTER TABLE "region_delta" ADD COLUMN "digest" "bytea";--> statement-breakpoint
ALTER TABLE "region_segment" ADD COLUMN "marks" "bytea";--> statement-breakpoint
ALTER TABLE "region_segment" ADD COLUMN "digest" "bytea";