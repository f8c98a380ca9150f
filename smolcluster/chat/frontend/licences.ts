/** licenses.txt beside a page: the licences of the packages that are in its scripts, which minifying leaves out. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Plugin, Rolldown } from "vite";

const FILE = "licenses.txt";
const LINE = `\n${"-".repeat(80)}\n\n`;
// Of packages that come without the text of theirs.
const OURS = join(dirname(fileURLToPath(import.meta.url)), "licences");

/** `page` for a build's plugins, `worker` for those of its workers, which are bundled by themselves, and before it. */
export function licences(): { page: Plugin; worker: () => Plugin[] } {
  const texts = new Map<string, string>();
  const collect = (bundle: Rolldown.OutputBundle) => {
    for (const chunk of Object.values(bundle)) {
      for (const module of chunk.type === "chunk" ? chunk.moduleIds : []) {
        const folder = packageOf(module);
        if (folder !== undefined && !texts.has(folder)) texts.set(folder, licence(folder));
      }
    }
  };
  return {
    page: {
      name: "smolcluster:licences",
      generateBundle(_, bundle) {
        collect(bundle);
        this.emitFile({ type: "asset", fileName: FILE, source: [...texts.values()].sort().join(LINE) });
      },
    },
    worker: () => [{ name: "smolcluster:licences-of-a-worker", generateBundle: (_, bundle) => collect(bundle) }],
  };
}

/** The folder of the package that a module is of. */
const packageOf = (module: string): string | undefined =>
  /^[^\0].*[\\/]node_modules[\\/](?:@[^\\/]+[\\/])?[^\\/]+/.exec(module)?.[0];

function licence(folder: string): string {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((file) => /^(licen[cs]e|copying)/i.test(file));
  const text = readFileSync(file === undefined ? join(OURS, `${name}.txt`) : join(folder, file), "utf8");
  return `${name} ${version} (${license})\n\n${text.trim()}\n`;
}
