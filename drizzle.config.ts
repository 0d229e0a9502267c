import { defineConfig } from "drizzle-kit";

export default defineConfig({
  dialect: "postgresql",
  schema: "./relay/db/schema.ts",
  out: "./migrations",
});
