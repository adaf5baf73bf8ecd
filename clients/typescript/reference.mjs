// Writes docs/typescript-reference.md from the declarations of the package. `--check`: say whether it is current.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PAGE = new URL("../../docs/typescript-reference.md", import.meta.url);
const HEAD = `# TypeScript client: reference

Every public name of \`@presence-server/client\`, made from its types by \`npm run reference\`. How to use them, which codes stop a
client, and what promises reject with: [the TypeScript client](typescript.md).
`;

function declarations() {
  const folder = mkdtempSync(join(tmpdir(), "reference-"));
  try {
    const options = ["--declaration", "--emitDeclarationOnly", "--outDir", folder, "--rootDir", "src", "-p", "tsconfig.build.json"];
    execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", ...options], { cwd: import.meta.dirname, stdio: "inherit" });
    const read = (name) => readFileSync(join(folder, `${name}.d.ts`), "utf8");
    return { index: read("index"), react: read("react"), ...Object.fromEntries(["client", "emitter", "errors", "messages", "room", "room-types", "roster", "token"].map((name) => [name, read(name)])) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Split a declaration file, or a class's body, into its declarations, each with the comment before it. */
function split(text, indent) {
  const found = [];
  let comment = [];
  let lines = [];
  for (const line of text.split("\n").map((each) => each.slice(indent.length))) {
    if (lines.length === 0 && (comment.length > 0 ? !comment.at(-1).endsWith("*/") : line.startsWith("/**"))) {
      comment.push(line);
      continue;
    }
    lines.push(line);
    const all = lines.join("\n");
    if (!/[;}]$/.test(all) || all.match(/[({[]/g)?.length !== all.match(/[)}\]]/g)?.length) continue;
    found.push({ comment: prose(comment.join("\n")), text: all });
    [comment, lines] = [[], []];
  }
  return found;
}

function prose(comment) {
  return comment.replace(/^\s*\/\*\*|\*\/$/g, "").replace(/^\s*\* ?/gm, "").trim();
}

const bare = (text) => text.replace(/^export /, "").replace(/^declare /, "");
const nameOf = (text) => /(?:class|interface|type|function) (\w+)/.exec(text)?.[1];
const block = (text) => `\`\`\`ts\n${text}\n\`\`\`\n`;

function members(text) {
  const [first, ...rest] = text.split("\n");
  const sections = new Map();
  for (const member of split(rest.slice(0, -1).join("\n"), "    ")) {
    const name = /^(?:readonly |get |override )*(\[?[\w.]+\]?)/.exec(member.text)?.[1];
    if (name === undefined || member.text.startsWith("#private") || member.text.startsWith("constructor")) continue;
    const shown = sections.get(name) ?? { comment: "", texts: [] };
    shown.comment ||= member.comment;
    shown.texts.push(member.text);
    sections.set(name, shown);
  }
  const parts = [...sections].map(([name, { comment, texts }]) => {
    const heading = name === "[Symbol.asyncIterator]" ? "for await" : name;
    return `#### ${heading}\n\n${comment && `${comment}\n\n`}${block(texts.join("\n"))}`;
  });
  return [block(bare(first).replace(/ \{$/, "")), ...parts].join("\n");
}

function entry({ comment, text }) {
  const body = /^export (declare )?class/.test(text) ? members(text) : block(bare(text));
  return `### ${nameOf(text)}\n\n${comment && `${comment}\n\n`}${body}`;
}

const files = declarations();
const all = new Map(
  Object.entries(files).filter(([name]) => name !== "index").flatMap(([, text]) => split(text, "")).map((each) => [nameOf(each.text), each]),
);
const exported = [...files.index.matchAll(/^export (?:type )?\{([^}]*)\}/gm)].flatMap(([, names]) => names.split(",")).map((name) => name.trim().replace(/^type /, ""));
const hooks = [...files.react.matchAll(/export declare function (\w+)/g)].map(([, name]) => name);
const kinds = {
  "Functions": exported.filter((name) => /function/.test(all.get(name).text.split("(")[0])),
  "Classes": ["Client", "Room", "Emitter", "PresenceError", "StopError"],
  "React hooks": hooks,
};
const taken = new Set(Object.values(kinds).flat());
kinds["Types"] = exported.filter((name) => !taken.has(name));
const page = [HEAD, ...Object.entries(kinds).flatMap(([heading, names]) => [`## ${heading}\n`, ...names.map((name) => entry(all.get(name)))])].join("\n");

if (process.argv.includes("--check")) {
  if (readFileSync(PAGE, "utf8") !== page) {
    console.error("docs/typescript-reference.md is not what the types say: run npm run reference");
    process.exit(1);
  }
} else writeFileSync(PAGE, page);
