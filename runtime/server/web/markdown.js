// Markdown as models write it, rendered into elements. Text only ever becomes text nodes, and the only attribute made of it is
// the address of a link, which must be http, https or mailto: nothing that a model says can become markup or script.

const DEPTH = 8; // of quotes, lists and emphasis in each other; what is deeper stays as it is written
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const LINK = /!?\[([^[\]]{0,500})\]\(([^\s()<>]{1,2000})(?:\s+"[^"]{0,200}")?\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`)\]]{1,2000}/y;
const ESCAPED = /\\([\\`*_{}[\]()#+.!>~|-])/y;

// Renders `text` into `home`. Called again as the text grows, it makes only those blocks anew that have changed.
export function render(home, text) {
  const shown = (home.blocks ??= []);
  const blocks = split(text.replace(/\r\n?/g, "\n").split("\n"));
  for (const [i, { kind, lines }] of blocks.entries()) {
    const source = `${kind} ${lines.join("\n")}`;
    if (shown[i]?.source === source) continue;
    const element = block({ kind, lines }, 0);
    if (shown[i]) shown[i].element.replaceWith(element);
    else home.append(element);
    shown[i] = { source, element };
  }
  for (const { element } of shown.splice(blocks.length)) element.remove();
}

// The top level of a text: [{kind, lines}], kinds are fence, heading, rule, quote, list, table and paragraph.
function split(lines) {
  const blocks = [];
  let i = 0;
  const take = (kind, end) => {
    blocks.push({ kind, lines: lines.slice(i, end) });
    i = end;
  };
  while (i < lines.length) {
    const line = lines[i];
    const fence = FENCE.exec(line);
    if (!line.trim()) i += 1;
    else if (fence) take("fence", fenceEnd(lines, i, fence[1]));
    else if (HEADING.test(line)) take("heading", i + 1);
    else if (RULE.test(line)) take("rule", i + 1);
    else if (QUOTE.test(line)) take("quote", runEnd(lines, i, (next) => next.trim() && !FENCE.test(next)));
    else if (ITEM.test(line)) take("list", listEnd(lines, i));
    else if (isTable(lines, i)) take("table", runEnd(lines, i, (next) => next.includes("|")));
    else take("paragraph", runEnd(lines, i, (next, at) => next.trim() && !begins(next) && !isTable(lines, at)));
  }
  return blocks;
}

function begins(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

function isTable(lines, i) {
  const next = lines[i + 1] ?? "";
  return lines[i].includes("|") && next.includes("|") && next.length < 1000 && DIVIDER.test(next);
}

function runEnd(lines, i, goesOn) {
  let end = i + 1;
  while (end < lines.length && goesOn(lines[end], end)) end += 1;
  return end;
}

function fenceEnd(lines, i, mark) {
  return Math.min(runEnd(lines, i, (next) => !closes(next, mark)) + 1, lines.length);
}

function closes(line, mark) {
  const text = line.trim();
  return text.length >= mark.length && text === mark[0].repeat(text.length);
}

// A list goes on over blank lines where the next line is indented or another item of the same kind.
function listEnd(lines, i) {
  const [, margin, first] = ITEM.exec(lines[i]);
  const belongs = (line) => {
    const item = ITEM.exec(line);
    if (!item || item[1].length >= margin.length + 2) return /^(?: {2,}|\t)/.test(line);
    return /\d/.test(item[2]) === /\d/.test(first) && !RULE.test(line);
  };
  let end = i + 1;
  while (end < lines.length) {
    const line = lines[end];
    if (line.trim() ? belongs(line) || !(begins(line) || !lines[end - 1].trim()) : end + 1 < lines.length) end += 1;
    else break;
  }
  while (!lines[end - 1].trim()) end -= 1;
  return end;
}

function block({ kind, lines }, depth) {
  if (kind === "fence") return code(lines);
  if (kind === "heading") {
    const [, marks, text] = HEADING.exec(lines[0]);
    return inline(make(`h${Math.min(marks.length + 2, 6)}`), text.trim(), 0); // the page has h1 and h2 itself
  }
  if (kind === "rule") return make("hr");
  if (kind === "quote") return nested(make("blockquote"), lines.map((line) => line.replace(QUOTE, "")), depth + 1);
  if (kind === "list") return list(lines, depth + 1);
  if (kind === "table") return table(lines);
  return inline(make("p"), lines.map((line) => line.trim()).join("\n"), 0);
}

function nested(home, lines, depth) {
  if (depth > DEPTH) home.textContent = lines.join("\n");
  else for (const part of split(lines)) home.append(block(part, depth));
  return home;
}

function code(lines) {
  const [, mark, info] = FENCE.exec(lines[0]);
  const closed = lines.length > 1 && closes(lines.at(-1), mark);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const home = make("div", "code");
  const bar = make("div", "bar");
  bar.append(make("span", "", info.trim().split(/\s/)[0].slice(0, 40) || "text"), copyButton(() => text));
  const pre = make("pre");
  pre.tabIndex = 0; // wide code can be scrolled by the keyboard
  pre.append(make("code", "", text));
  home.append(bar, pre);
  return home;
}

function list(lines, depth) {
  const [, margin, first] = ITEM.exec(lines[0]);
  const home = make(/\d/.test(first) ? "ol" : "ul");
  const number = parseInt(first, 10);
  if (number !== 1 && !Number.isNaN(number)) home.start = number;
  let width = 0; // of the margin that belongs to the item
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length < margin.length + 2) {
      width = item[0].trimEnd().length + 1;
      items.push([line.slice(item[0].length)]);
    } else {
      const own = /^[ \t]*/.exec(line)[0].length;
      items.at(-1).push(line.slice(Math.min(own, width)));
    }
  }
  for (const item of items) {
    const element = nested(make("li"), item, depth);
    const only = element.children[0];
    if (only?.tagName === "P" && !item.includes("")) only.replaceWith(...only.childNodes); // tight
    home.append(element);
  }
  return home;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/);
  const sides = cells(lines[1]).map((cell) => (/:\s*$/.test(cell) ? (/^\s*:/.test(cell) ? "center" : "right") : "left"));
  const home = make("div", "table");
  home.tabIndex = 0;
  const element = home.appendChild(make("table"));
  const row = (part, tag, line) => {
    const tr = part.appendChild(make("tr"));
    for (const [i, cell] of cells(line).slice(0, sides.length).entries()) tr.append(inline(make(tag, sides[i]), cell.trim(), 0));
  };
  row(element.appendChild(make("thead")), "th", lines[0]);
  const body = element.appendChild(make("tbody"));
  for (const line of lines.slice(2)) row(body, "td", line);
  return home;
}

const PAIRS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

// Appends `text` with its emphasis, code and links to `home`. `missing` remembers marks that are never closed, so that a text
// of nothing but asterisks takes no quadratic time.
function inline(home, text, depth) {
  const missing = new Set();
  let plain = "";
  let i = 0;
  const put = (element) => {
    if (plain) home.append(plain);
    plain = "";
    if (element) home.append(element);
  };
  const match = (pattern) => {
    pattern.lastIndex = i;
    return pattern.exec(text);
  };
  while (i < text.length) {
    const char = text[i];
    let found;
    if (char === "\\" && (found = match(ESCAPED))) {
      plain += found[1];
      i += 2;
    } else if (char === "`" && (found = span(text, i, missing))) {
      put(make("code", "", found.text));
      i = found.end;
    } else if ((char === "[" || char === "!") && (found = match(LINK)) && depth < DEPTH) {
      const element = link(found[2]);
      put(inline(element ?? make("span"), found[1] || found[2], DEPTH)); // no links in links
      i += found[0].length;
    } else if (char === "h" && depth < DEPTH && (found = match(ADDRESS))) {
      const address = found[0].replace(/[.,;:!?*_]+$/, "");
      const element = link(address) ?? make("span");
      element.append(address);
      put(element);
      i += address.length;
    } else if ("*_~".includes(char) && depth < DEPTH && (found = emphasis(text, i, missing))) {
      put(inline(make(found.tag), found.text, depth + 1));
      i = found.end;
    } else if (char === "\n") {
      put(make("br"));
      i += 1;
    } else {
      plain += char;
      i += 1;
    }
  }
  put();
  return home;
}

// `code` between equally many backticks.
function span(text, i, missing) {
  const marks = /`+/y;
  marks.lastIndex = i;
  const mark = marks.exec(text)[0];
  if (missing.has(mark)) return null;
  let end = text.indexOf(mark, i + mark.length);
  while (end >= 0 && (text[end + mark.length] === "`" || text[end - 1] === "`")) {
    let next = end + 1;
    while (text[next] === "`") next += 1;
    end = text.indexOf(mark, next);
  }
  if (end < 0) {
    missing.add(mark);
    return null;
  }
  return { text: text.slice(i + mark.length, end).replace(/^ (.*) $/s, "$1"), end: end + mark.length };
}

function emphasis(text, i, missing) {
  for (const [mark, tag] of PAIRS) {
    if (!text.startsWith(mark, i) || missing.has(mark)) continue;
    const start = i + mark.length;
    if (/\s|^$/.test(text[start] ?? "")) continue;
    if (mark[0] === "_" && /\w/.test(text[i - 1] ?? "")) continue; // snake_case is no emphasis
    for (let end = text.indexOf(mark, start + 1); end >= 0; end = text.indexOf(mark, end + 1)) {
      const after = text[end + mark.length] ?? "";
      if (/\s/.test(text[end - 1]) || (mark[0] === "_" && /\w/.test(after))) continue;
      if (mark.length === 1 && (after === mark || text[end - 1] === mark)) continue; // a part of the double mark
      return { tag, text: text.slice(start, end), end: end + mark.length };
    }
    missing.add(mark);
  }
  return null;
}

function link(address) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  const element = make("a");
  element.href = url.href;
  element.target = "_blank";
  element.rel = "noopener noreferrer nofollow";
  return element;
}

export function make(tag, kind = "", text = "") {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text) element.textContent = text;
  return element;
}

export function copyButton(read) {
  const button = make("button", "quiet", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    let said = "Copied";
    try {
      await navigator.clipboard.writeText(read());
    } catch {
      said = "Not allowed"; // pages that come neither by https nor from this machine have no clipboard
    }
    button.textContent = said;
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}
