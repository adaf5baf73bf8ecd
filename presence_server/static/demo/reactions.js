// Reactions: a symbol that rises from where somebody points, on everybody's board. Signals: who is not there misses it.

import { clamp, isPoint } from "./cursors.js";
import { announce } from "./words.js";

const KINDS = new Set(["heart", "thumb", "star", "smile", "bolt"]);
const SHOWN_MAX = 40;
const SHOWN_MS = 2_200;
const SPREAD = 0.08;

const layer = document.querySelector("#reactions");

/** Call `send` with each reaction of this page. `ownPoint()` says where its pointer is, or null. */
export function watchReactions(send, ownPoint) {
  let sent = 0;
  for (const button of document.querySelectorAll("button[data-reaction]")) {
    button.addEventListener("click", () => {
      const random = () => (Math.random() - 0.5) * SPREAD;
      const from = ownPoint() ?? { x: 0.5, y: 0.8 };
      // The pointer is on the button now: somewhat above it, so that it can be seen.
      const reaction = { kind: button.dataset.reaction, x: clamp(from.x + random()), y: clamp(Math.min(from.y, 0.8) + random()) };
      rise(reaction, "");
      send({ ...reaction, n: ++sent });
    });
  }
}

/** Show somebody else's reaction. */
export function showReaction(name, data) {
  if (!KINDS.has(data?.kind) || !isPoint(data)) return;
  rise(data, name);
  announce(`${name} sent a ${data.kind}`);
}

function rise({ kind, x, y }, name) {
  const reaction = document.createElement("div");
  reaction.className = `reaction ${kind}`;
  reaction.style.setProperty("--x", clamp(x));
  reaction.style.setProperty("--y", clamp(y));
  const symbol = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#${kind}`);
  symbol.append(use);
  const label = document.createElement("bdi");
  label.textContent = name;
  reaction.append(symbol, label);
  layer.append(reaction);
  while (layer.childElementCount > SHOWN_MAX) layer.firstElementChild.remove();
  setTimeout(() => reaction.remove(), SHOWN_MS);
}
