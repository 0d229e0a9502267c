import { defineConfig } from "vite";

export default defineConfig({
  root: import.meta.dirname,
  // Works under any path of any host.
  base: "./",
  build: {
    outDir: "dist",
    emptyOutDir: true,
    target: "es2023",
    // The page's policy allows no inline code or data: URLs.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8444" } },
});
