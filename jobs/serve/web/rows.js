// A list of any length of which only what is seen is in the page. Rows have one height; `total` may change.

import { el } from "./lib.js";

export class Rows {
  // make(index) -> node; scroller: an element, or null where the window scrolls; near(last): called with the last index
  constructor({ height, make, label, role = "list", scroller = null, near = null }) {
    this.height = height;
    this.make = make;
    this.near = near;
    this.total = 0;
    this.nodes = new Map();
    this.node = el("div", { class: "rows", role, "aria-label": label });
    this.scroller = scroller;
    this.seen = () => this.draw();
    (scroller ?? window).addEventListener("scroll", this.seen, { passive: true });
    this.watch = new ResizeObserver(this.seen);
    this.watch.observe(scroller ?? document.documentElement);
  }

  destroy() {
    (this.scroller ?? window).removeEventListener("scroll", this.seen);
    this.watch.disconnect();
  }

  // keep: rows that are shown stay as they are
  set(total, keep = true) {
    this.total = total;
    this.node.style.height = `${total * this.height}px`;
    if (!keep) {
      this.node.replaceChildren();
      this.nodes.clear();
    }
    this.draw();
  }

  view() {
    if (this.scroller) {
      const top = this.scroller.scrollTop - this.node.offsetTop;
      return [top, top + this.scroller.clientHeight];
    }
    const { top } = this.node.getBoundingClientRect();
    return [-top, innerHeight - top];
  }

  range() {
    const [top, bottom] = this.view();
    const first = Math.max(0, Math.floor(top / this.height) - 4);
    return [first, Math.min(this.total, Math.ceil(bottom / this.height) + 4)];
  }

  draw() {
    const [first, last] = this.range();
    for (const [index, node] of this.nodes) {
      if (index < first || index >= last) {
        node.remove();
        this.nodes.delete(index);
      }
    }
    for (let index = first; index < last; index++) {
      if (this.nodes.has(index)) continue;
      const node = this.make(index);
      node.style.top = `${index * this.height}px`;
      node.style.height = `${this.height}px`;
      if (this.node.getAttribute("role") === "list") {
        node.setAttribute("aria-posinset", index + 1);
        node.setAttribute("aria-setsize", this.total);
      }
      const next = [...this.nodes.entries()].filter(([i]) => i > index).sort((a, b) => a[0] - b[0])[0];
      this.node.insertBefore(node, next ? next[1] : null); // in order, for whoever hears the page
      this.nodes.set(index, node);
    }
    if (this.near && last > 0) this.near(last - 1);
  }

  again(index) {
    this.nodes.get(index)?.remove();
    this.nodes.delete(index);
    this.draw();
  }

  show(index, where = 0.35) {
    if (!this.scroller) return;
    const top = this.node.offsetTop + index * this.height;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop + this.height || top > scrollTop + clientHeight - 2 * this.height) {
      this.scroller.scrollTop = top - where * clientHeight;
    }
  }
}
