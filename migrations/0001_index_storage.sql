-- Hashes are random bytes: trying to compress them costs time and gains nothing, and stored uncompressed
-- a part of a value is read without the rest of it.
ALTER TABLE "region_segment" ALTER COLUMN "hashes" SET STORAGE EXTERNAL;--> statement-breakpoint
ALTER TABLE "region_segment" ALTER COLUMN "epochs" SET STORAGE EXTERNAL;--> statement-breakpoint
ALTER TABLE "region_delta" ALTER COLUMN "entries" SET STORAGE EXTERNAL;
