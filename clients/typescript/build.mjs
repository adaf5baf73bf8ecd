// Builds the package into dist/, and the two files that the server serves. `--check`: say whether those are current.
// `--package FOLDER`: build the package alone, into another folder.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";

const SERVED = new URL("../../presence_server/static/", import.meta.url);
const VERSION = JSON.parse(readFileSync(new URL("package.json", import.meta.url))).version.split(".")[0];
const MOST_BYTES = 8 * 1024;
/** Properties that no application sees: their names cost 170 bytes in the files that the server serves. */
const INTERNAL =
  /^(inTurn|lastId|probe|lose|receive|disconnected|remember|keep|failed|isGoing|over|abandon|heard|isHeard|latest|bring|brought|goOn|pause|wishes|waiting|isEntry|emit|timer|excuse|listener|lastedMs|reconnectMs|takeBack|restore|hold|unconfirmed|before|complete|isOver|wake|since|whole|patch|asked|refuse|enter|hide|link|end|drop|store)$/;
const common = { bundle: true, target: "es2022", write: false, absWorkingDir: import.meta.dirname, charset: "utf8" };

async function bundle(options) {
  const { outputFiles, metafile } = await build({ ...common, minify: true, metafile: true, mangleProps: INTERNAL, outdir: "bundle", ...options });
  // After esbuild, terser finds another 200 compressed bytes; by itself it finds less than esbuild.
  const { code } = await minify(outputFiles[0].text, { ecma: 2022, module: true, compress: { passes: 2, lhs_constants: false } });
  return { text: `${code}\n`, exports: Object.values(metafile.outputs)[0].exports };
}

async function buildPackage(folder) {
  rmSync(folder, { recursive: true, force: true });
  for (const entry of ["index", "react"]) {
    await build({
      ...common,
      write: true,
      entryPoints: [`src/${entry}.ts`],
      outfile: join(folder, `${entry}.js`),
      format: "esm",
      sourcemap: true,
      external: ["react"],
    });
  }
  const options = ["--declaration", "--emitDeclarationOnly", "--outDir", folder, "--rootDir", "src", "-p", "tsconfig.build.json"];
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", ...options], { cwd: import.meta.dirname, stdio: "inherit" });
}

if (process.argv[2] === "--package") {
  await buildPackage(resolve(process.argv[3]));
  process.exit();
}

const module = await bundle({ entryPoints: ["src/index.ts"], format: "esm" });
// esbuild's `globalName` would do the same with 150 bytes of helpers more.
const names = `{ ${module.exports.join(", ")} }`;
const contents = `import ${names} from "./src/index.ts"; globalThis.presenceServer = ${names};`;
const classic = await bundle({ stdin: { contents, resolveDir: import.meta.dirname }, format: "iife" });
const served = { [`presence-${VERSION}.js`]: module.text, [`presence-${VERSION}.classic.js`]: classic.text };
let failed = false;
for (const [name, text] of Object.entries(served)) {
  const file = new URL(name, SERVED);
  const bytes = gzipSync(text, { level: 9 }).length;
  console.log(`${name}: ${text.length} bytes, ${bytes} compressed`);
  if (bytes > MOST_BYTES) {
    console.error(`${name} is longer than ${MOST_BYTES} bytes when compressed`);
    failed = true;
  }
  if (!process.argv.includes("--check")) writeFileSync(file, text);
  else if (!existsSync(file) || readFileSync(file, "utf8") !== text) {
    console.error(`presence_server/static/${name} is not what the sources make: run npm run build`);
    failed = true;
  }
}
if (failed) process.exit(1);
if (!process.argv.includes("--check")) await buildPackage(join(import.meta.dirname, "dist"));
