import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";
import { licences } from "./licences.ts";

// The built page ships in the Python package, beside the backend that serves it.
export default defineConfig({
  plugins: [react(), licences().page],
  build: {
    outDir: process.env.PAGE_FOLDER ?? "../page",
    emptyOutDir: true,
    // No data: URLs, which the page's Content-Security-Policy does not let in.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    // The chat, and the dashboard: each asks for what it needs alone.
    rollupOptions: { input: ["index.html", "dashboard.html"] },
    target: "es2022",
    reportCompressedSize: false,
  },
  // `npm run dev` beside a backend on its usual port.
  server: { host: "127.0.0.1", proxy: { "/api": { target: "http://127.0.0.1:8080", ws: true, changeOrigin: true } } },
  test: { environment: "happy-dom", include: ["src/**/*.test.{ts,tsx}"] },
});
