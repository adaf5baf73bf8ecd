// A table that is brought up to date row by row: focus, selection and scroll position stay where they are.

import { element, setText } from "./format.js";

/**
 * `columns`: each `{ title, text(item) | fill(cell, item), className, sort(item), mark(item) }`. `keyOf(item)` tells rows
 * apart; `empty` is said where there are none. Columns with `sort` can be sorted by.
 */
export class Table {
  constructor(table, { columns, keyOf, empty, rowClass = () => "", caption = "" }) {
    Object.assign(this, { columns, keyOf, empty, rowClass });
    this.body = table.tBodies[0];
    this.rows = new Map();
    this.by = -1;
    this.falling = true;
    this.items = [];
    if (caption) table.createCaption().append(element("span", { className: "hidden" }, caption));
    const head = element("tr");
    this.heads = columns.map((column, index) => {
      const th = element("th", { className: column.className ?? "", scope: "col" });
      if (column.sort) {
        th.append(element("button", { type: "button", textContent: column.title, onclick: () => this.sortBy(index) }));
      } else {
        th.append(column.title || element("span", { className: "hidden" }, "Actions"));
      }
      head.append(th);
      return th;
    });
    table.tHead.replaceChildren(head);
  }

  /** Sort by a column, the greatest first; by the same again, the least first; once more, as before. */
  sortBy(index) {
    if (this.by !== index) [this.by, this.falling] = [index, true];
    else if (this.falling) this.falling = false;
    else this.by = -1;
    this.heads.forEach((th, i) => {
      if (i === this.by) th.setAttribute("aria-sort", this.falling ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    this.show(this.items);
  }

  show(items) {
    this.items = items;
    const sorted = this.by < 0 ? items : items.toSorted((a, b) => this.compare(a, b));
    const rows = sorted.map((item) => this.row(item));
    const kept = new Set(rows);
    for (const [key, row] of this.rows) if (!kept.has(row)) this.rows.delete(key);
    if (!rows.length) {
      const cell = element("td", { className: "none", colSpan: this.columns.length, textContent: this.empty });
      rows.push(element("tr", {}, cell));
    }
    for (const old of [...this.body.rows]) if (!kept.has(old)) old.remove();
    rows.forEach((row, index) => {
      if (this.body.rows[index] !== row) this.body.insertBefore(row, this.body.rows[index] ?? null);
    });
  }

  compare(a, b) {
    const { sort } = this.columns[this.by];
    const [x, y] = [sort(a) ?? -Infinity, sort(b) ?? -Infinity];
    const order = typeof x === "string" && typeof y === "string" ? -x.localeCompare(y) : x - y;
    return this.falling ? -order : order;
  }

  row(item) {
    const key = this.keyOf(item);
    let row = this.rows.get(key);
    if (!row) {
      row = element("tr", {}, ...this.columns.map(() => element("td")));
      this.rows.set(key, row);
    }
    row.className = this.rowClass(item);
    this.columns.forEach((column, index) => {
      const cell = row.cells[index];
      cell.className = [column.className, column.mark?.(item)].filter(Boolean).join(" ");
      if (column.fill) column.fill(cell, item);
      else setText(cell, column.text(item));
    });
    return row;
  }
}
