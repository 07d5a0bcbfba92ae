// Builds the page: `node build.mjs DIR` writes index.html and assets/NAME-HASH.EXT, the same bytes for the same sources.
// `node build.mjs --tests DIR` bundles the unit tests for node's own runner.
import { build } from "esbuild";
import { readFile, readdir, mkdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const common = {
  absWorkingDir: here,
  bundle: true,
  format: "esm",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  logLevel: "warning",
};

async function page(dir) {
  await rm(dir, { recursive: true, force: true });
  const result = await build({
    ...common,
    entryPoints: ["src/main.tsx", "src/style.css", "src/icon.svg"],
    outdir: dir,
    entryNames: "assets/[name]-[hash]",
    loader: { ".svg": "copy" },
    target: ["chrome137", "firefox130", "safari17"],
    minify: true,
    metafile: true,
  });
  const written = Object.keys(result.metafile.outputs).map((file) => basename(file));
  const asset = (name, ext) => {
    const found = written.filter((file) => file.startsWith(`${name}-`) && file.endsWith(ext));
    if (found.length !== 1) throw new Error(`${found.length} files are ${name}*${ext}, not one`);
    return `/assets/${found[0]}`;
  };
  const html = (await readFile(join(here, "src/index.html"), "utf8"))
    .replace("{{script}}", asset("main", ".js"))
    .replace("{{style}}", asset("style", ".css"))
    .replace("{{icon}}", asset("icon", ".svg"));
  await writeFile(join(dir, "index.html"), html);
}

async function tests(dir) {
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  const names = (await readdir(join(here, "test"))).filter((name) => name.endsWith(".test.ts"));
  await build({ ...common, entryPoints: names.map((name) => `test/${name}`), outdir: dir, platform: "node", target: "node20" });
}

const args = process.argv.slice(2);
if (args.length === 1 && !args[0].startsWith("-")) await page(resolve(args[0]));
else if (args.length === 2 && args[0] === "--tests") await tests(resolve(args[1]));
else {
  console.error("usage: node build.mjs DIR | node build.mjs --tests DIR");
  process.exit(2);
}
