"use strict";
// Calls of the service, and small helpers that all parts of the page use.

const $ = id => document.getElementById(id);
const KEY = "zoetrope-key";
let key = sessionStorage.getItem(KEY) || "";
let model = null; // what the form offers, see ModelForm in the OpenAPI document

class Refused extends Error {
  constructor(status, body) {
    super(body.error || "The service answered with status " + status + ".");
    this.status = status;
    this.fields = body.fields || {};
  }
}

function headers(more = {}) {
  return key ? { ...more, authorization: "Bearer " + key } : more;
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch("/dashboard" + path, { ...options, headers: headers(options.headers) });
  } catch {
    throw new Error("The service does not answer.");
  }
  if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
  return response;
}

async function read(path) {
  return (await call(path)).json();
}

async function send(path, body) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  return (await call(path, { method: "POST", ...sent })).json();
}

// Not by fetch, which does not tell how far an upload is.
function upload(file, progress) {
  const request = new XMLHttpRequest(), form = new FormData();
  form.append("file", file);
  request.open("POST", "/dashboard/files");
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
  request.upload.onprogress = event => progress(event.loaded / event.total);
  const done = new Promise((resolve, reject) => {
    request.onerror = () => reject(new Error("The service does not answer."));
    request.onabort = () => reject(new DOMException("Stopped.", "AbortError"));
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { /* not from the service itself */ }
      if (request.status === 201) resolve(body);
      else reject(new Refused(request.status, body));
    };
    request.send(form);
  });
  return { done, stop: () => request.abort() };
}

function element(tag, className = "", ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

function button(label, className, run) {
  const node = element("button", className, label);
  node.type = "button";
  node.addEventListener("click", run);
  return node;
}

// At most two files at a time, in the order in which they were asked for: a page of videos does not keep others waiting.
const files = { waiting: [], open: 0 };
function blobOf(path) {
  return new Promise((resolve, reject) => { files.waiting.push({ path, resolve, reject }); nextFile(); });
}
async function nextFile() {
  if (files.open >= 2 || !files.waiting.length) return;
  const { path, resolve, reject } = files.waiting.shift();
  files.open += 1;
  try { resolve(await (await call(path)).blob()); } catch (error) { reject(error); }
  files.open -= 1;
  nextFile();
}

// Not at once: an element that has just gone may still read the file.
function release(url) {
  if (url) setTimeout(() => URL.revokeObjectURL(url), 10000);
}

const number = value => String(Math.round(value * 100) / 100);
function duration(seconds) {
  return seconds < 90 ? Math.round(seconds) + " s" : seconds < 5400 ? Math.round(seconds / 60) + " min"
    : Math.round(seconds / 3600) + " h";
}
function bytes(size) {
  return size < 1e6 ? Math.max(1, Math.round(size / 1e3)) + " kB" : number(size / 1e6) + " MB";
}
