// Numbers, times and elements. Text from outside is only ever set as text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (n) => (n < 100_000 ? whole.format(n) : short.format(n));
export const rate = (n) => (n < 10 && n % 1 ? n.toFixed(1) : count(n));
export const percent = (n) => `${(n * 100).toFixed(n < 0.1 ? 1 : 0)} %`;
export const milliseconds = (n) => (n < 10 && n % 1 ? `${n.toFixed(1)} ms` : n < 10_000 ? `${whole.format(n)} ms` : duration(n));

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; n >= 1024 && unit < units.length - 1; unit += 1) n /= 1024;
  return `${n < 10 && unit ? n.toFixed(1) : whole.format(n)} ${units[unit]}`;
}

export function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export const byId = (id) => document.getElementById(id);

/** Make an element with properties, and text or elements in it. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(made.dataset, value);
    else if (name.startsWith("aria-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export const button = (text, onclick, className = "small") => element("button", { type: "button", className, textContent: text, onclick });

/** Set text only where it differs, so that what is selected or read aloud stays. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
