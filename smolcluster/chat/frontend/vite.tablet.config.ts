import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";
import { licences } from "./licences.ts";

const { page, worker } = licences();

// The page of tablets is built by itself, so that the chat page does not grow. It ships beside the site that serves it.
export default defineConfig({
  plugins: [react(), page],
  base: "/tablet/",
  worker: { format: "es", plugins: worker },
  // The runtime without a copy of its WebAssembly's loader, which is a file of its own: threads start with it.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "production"] },
  build: {
    outDir: process.env.TABLET_FOLDER ?? "../../tablet/page",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    reportCompressedSize: false,
    rollupOptions: { input: "tablet.html" },
  },
});
