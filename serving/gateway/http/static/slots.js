"use strict";
// Places in the form that take files: uploads, files of an earlier request, and finished videos.

const KINDS = { image: "a picture", clip: "a clip", sound: "a sound" };
const ACCEPT = { image: "image/*,.heic,.heif", clip: "video/*,.gif,.mkv", sound: "audio/*,video/*" };

class Slot {
  // kinds: those that it takes; most: how many; names: whether the prompt calls them "Image 1".
  constructor({ name, label, kinds, most = 1, required = false, note = "", names = false }, changed) {
    Object.assign(this, { name, label, kinds, most, required, names, changed, items: [] });
    this.node = element("div", "slot");
    this.node.dataset.field = name;
    const id = "slot-" + name;
    const title = element("label", "", label, required ? "" : element("span", "soft", " (optional)"));
    title.htmlFor = id;
    this.input = element("input");
    Object.assign(this.input, { type: "file", id, multiple: most > 1, accept: kinds.map(kind => ACCEPT[kind]).join() });
    this.list = element("ol", "files");
    this.left = element("p", "fault"); // when there were too many files
    this.left.setAttribute("role", "status");
    this.drop = element("div", "drop", this.list, this.input, this.left);
    this.node.append(title, this.drop);
    if (note) this.node.append(element("p", "soft note", note));
    this.input.addEventListener("change", () => { this.take(this.input.files); this.input.value = ""; });
    this.drop.addEventListener("dragover", event => { event.preventDefault(); this.drop.classList.add("over"); });
    this.drop.addEventListener("dragleave", () => this.drop.classList.remove("over"));
    this.drop.addEventListener("drop", event => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.take(event.dataTransfer.files);
    });
    this.draw();
  }

  get busy() { return this.items.some(item => !item.value && !item.error); }
  get values() { return this.items.filter(item => item.value); }

  take(chosen) {
    if (this.most === 1 && chosen.length) this.clear();
    const room = this.most - this.items.length;
    this.left.textContent = chosen.length > room ? `${chosen.length} files, ${room} of them are taken` : "";
    for (const file of [...chosen].slice(0, room)) {
      const item = { label: file.name, url: URL.createObjectURL(file), type: file.type, done: 0 };
      this.items.push(item);
      const sent = upload(file, done => { item.done = done; if (item.bar) item.bar.value = done; });
      item.stop = sent.stop;
      sent.done.then(found => Object.assign(item, { value: found.name, kind: found.kind, about: found }),
        error => { item.error = error.message; }).then(() => this.draw());
    }
    this.draw();
  }

  // A file that the service has: media/ID or operations/ID.
  add(value, kind, label) {
    const item = { value, kind, label: label || value };
    this.items.push(item);
    this.draw();
    const [what, id] = value.split("/");
    const path = what === "media" ? "/files/" + id + "/content" : "/jobs/" + id + "/video";
    const show = async () => {
      if (what === "media") {
        const about = await read("/files/" + id);
        Object.assign(item, { about, kind: about.kind, label: about.filename || label || "file" });
      }
      const blob = await blobOf(path);
      if (this.items.includes(item)) Object.assign(item, { url: URL.createObjectURL(blob), type: blob.type });
    };
    show().catch(error => { item.error = error.message; item.value = null; }).then(() => this.draw());
  }

  clear() {
    this.left.textContent = "";
    while (this.items.length) this.remove(this.items[0]);
  }

  remove(item) {
    if (item.stop && !item.value) item.stop();
    release(item.url);
    this.items = this.items.filter(other => other !== item);
    this.draw();
  }

  move(item, by) {
    const from = this.items.indexOf(item);
    this.items.splice(from, 1);
    this.items.splice(from + by, 0, item);
    this.draw();
    this.list.children[from + by].querySelector("button:enabled").focus();
  }

  draw() {
    const counts = { image: 0, clip: 0 };
    this.list.replaceChildren(...this.items.map((item, i) => this.entry(item, i, counts)));
    this.list.hidden = !this.items.length;
    this.input.hidden = this.most > 1 && this.items.length >= this.most;
    this.changed();
  }

  entry(item, i, counts) {
    const node = element("li", item.error ? "bad" : "");
    node.append(thumbnail(item));
    const text = element("div", "about", element("b", "", this.called(item, i, counts)), element("span", "", item.label));
    if (item.error) text.append(element("span", "fault", item.error));
    else if (!item.value) {
      item.bar = element("progress");
      item.bar.value = item.done;
      item.bar.setAttribute("aria-label", "uploading " + item.label);
      text.append(item.bar);
    } else if (item.about) {
      const { width, height, seconds } = item.about;
      const facts = [width && width + "×" + height, seconds && number(seconds) + " s"].filter(Boolean).join(", ");
      text.append(element("span", "soft", facts));
    }
    node.append(text);
    if (this.most > 1 && this.items.length > 1) {
      const before = button("↑", "icon", () => this.move(item, -1)), after = button("↓", "icon", () => this.move(item, 1));
      before.disabled = i === 0;
      after.disabled = i === this.items.length - 1;
      before.setAttribute("aria-label", "Move " + item.label + " forward");
      after.setAttribute("aria-label", "Move " + item.label + " back");
      node.append(before, after);
    }
    const gone = button("×", "icon", () => { this.remove(item); this.input.focus(); });
    gone.setAttribute("aria-label", "Remove " + item.label);
    node.append(gone);
    return node;
  }

  called(item, i, counts) {
    if (this.names && item.kind in counts) {
      counts[item.kind] += 1;
      return (item.kind === "clip" ? "Video " : "Image ") + counts[item.kind];
    }
    return this.most > 1 ? String(i + 1) : "";
  }
}

function thumbnail(item) {
  const holder = element("div", "thumb");
  const type = item.type || "";
  if (!item.url || type.startsWith("audio/")) return holder;
  const node = element(type.startsWith("video/") ? "video" : "img");
  if (node.tagName === "VIDEO") Object.assign(node, { muted: true, playsInline: true, preload: "metadata" });
  else node.alt = "";
  node.onerror = () => node.remove(); // not every browser shows HEIC
  node.src = item.url;
  holder.append(node);
  return holder;
}
