// Builds the package into dist/, and the two files that the server serves. `--check`: say whether those are current.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const SERVED = new URL("../../presence_server/static/", import.meta.url);
const VERSION = JSON.parse(readFileSync(new URL("package.json", import.meta.url))).version.split(".")[0];
const MOST_BYTES = 8 * 1024;
const common = { bundle: true, target: "es2022", write: false, absWorkingDir: import.meta.dirname, charset: "utf8" };

async function bundle(options) {
  const { outputFiles } = await build({ ...common, ...options });
  return outputFiles[0].text;
}

const served = {
  [`presence-${VERSION}.js`]: await bundle({ entryPoints: ["src/index.ts"], format: "esm", minify: true }),
  [`presence-${VERSION}.classic.js`]: await bundle({
    entryPoints: ["src/index.ts"],
    format: "iife",
    globalName: "presenceServer",
    minify: true,
  }),
};
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
if (!process.argv.includes("--check")) {
  rmSync(new URL("dist", import.meta.url), { recursive: true, force: true });
  for (const entry of ["index", "react"]) {
    await build({
      ...common,
      write: true,
      entryPoints: [`src/${entry}.ts`],
      outfile: `dist/${entry}.js`,
      format: "esm",
      sourcemap: true,
      external: ["react"],
    });
  }
  execFileSync("npx", ["tsc", "--declaration", "--emitDeclarationOnly", "--outDir", "dist", "--rootDir", "src", "-p", "tsconfig.build.json"], {
    cwd: import.meta.dirname,
    stdio: "inherit",
  });
}
