// -- Markdown, as nodes: no reply ever becomes markup ------------------------------------------

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/, HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/, QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+)/, DASHES = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const INLINE = /(`+)(?!`)(.+?)(?<!`)\1(?!`)|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)|(\*\*|__)(?=\S)(.+?)(?<=\S)\5|(?<![\w*])([*_])(?=[^\s*_])([^\n]*?[^\s*_])\7(?![\w*])|(https?:\/\/[^\s<>"'`)\]]*[^\s<>"'`)\].,;:!?])/s;
const DEEPEST = 6;

function rendered(text) {
  const root = document.createDocumentFragment();
  addBlocks(root, text.split("\n"), 0);
  return root;
}

function addBlocks(parent, lines, depth) {
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    if (!line.trim()) at += 1;
    else if (FENCE.test(line)) at = addCode(parent, lines, at);
    else if (HEADING.test(line)) { addHeading(parent, line); at += 1; }
    else if (RULE.test(line)) { parent.append(element("hr")); at += 1; }
    else if (depth < DEEPEST && QUOTE.test(line)) at = addQuote(parent, lines, at, depth);
    else if (depth < DEEPEST && ITEM.test(line)) at = addList(parent, lines, at, depth);
    else if (isTable(lines, at)) at = addTable(parent, lines, at);
    else at = addParagraph(parent, lines, at);
  }
}

function addCode(parent, lines, at) {
  const [, fence] = FENCE.exec(lines[at]), code = element("code"), pre = element("pre");
  let end = at + 1;
  while (end < lines.length && !lines[end].trimStart().startsWith(fence)) end += 1;
  code.textContent = lines.slice(at + 1, end).join("\n");
  pre.append(code);
  parent.append(pre);
  return end + 1;
}

function addHeading(parent, line) {
  const [, marks, text] = HEADING.exec(line), made = element(`h${Math.min(marks.length + 2, 5)}`);
  addInline(made, text);
  parent.append(made);
}

function addQuote(parent, lines, at, depth) {
  const made = element("blockquote"), inner = [];
  for (; at < lines.length && QUOTE.test(lines[at]); at += 1) inner.push(lines[at].replace(QUOTE, ""));
  addBlocks(made, inner, depth + 1);
  parent.append(made);
  return at;
}

function addList(parent, lines, at, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]), numbered = /\d/.test(mark);
  const list = element(numbered ? "ol" : "ul");
  if (numbered) list.start = parseInt(mark, 10);
  while (at < lines.length) {
    const found = ITEM.exec(lines[at]);
    if (!found || found[1].length !== indent.length || /\d/.test(found[2]) !== numbered) break;
    const width = found[0].length, inner = [lines[at].slice(width)];
    for (at += 1; at < lines.length && belongs(lines, at, indent.length); at += 1) {
      inner.push(lines[at].slice(Math.min(width, lines[at].search(/\S|$/))));
    }
    list.append(addItem(inner, depth));
  }
  parent.append(list);
  return at;
}

// A line belongs to an item if it is indented more, or goes on with its paragraph.
function belongs(lines, at, indent) {
  const line = lines[at];
  if (!line.trim()) return at + 1 < lines.length && lines[at + 1].search(/\S/) > indent;
  if (line.search(/\S/) > indent) return true;
  return lines[at - 1].trim() !== "" && !begins(line);
}

function addItem(inner, depth) {
  const item = element("li");
  addBlocks(item, inner, depth + 1);
  const first = item.firstElementChild;
  if (first && first.tagName === "P") first.replaceWith(...first.childNodes);
  return item;
}

function isTable(lines, at) {
  return at + 1 < lines.length && lines[at].includes("|") && lines[at + 1].includes("-") && DASHES.test(lines[at + 1]);
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function addTable(parent, lines, at) {
  const table = element("table");
  const addRow = (line, tag) => {
    const row = element("tr");
    for (const text of cells(line)) { const cell = element(tag); addInline(cell, text); row.append(cell); }
    table.append(row);
  };
  addRow(lines[at], "th");
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) addRow(lines[at], "td");
  parent.append(table);
  return at;
}

const begins = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(line));

function addParagraph(parent, lines, at) {
  const made = element("p"), first = at;
  while (at < lines.length && lines[at].trim() && (at === first || !begins(lines[at])) && (at === first || !isTable(lines, at))) at += 1;
  lines.slice(first, at).forEach((line, index) => {
    if (index) made.append(element("br"));
    addInline(made, line);
  });
  parent.append(made);
  return at;
}

function addInline(parent, text) {
  for (let found = INLINE.exec(text); found; found = INLINE.exec(text)) {
    const [whole, , code, label, href, , strong, , soft, bare] = found;
    parent.append(text.slice(0, found.index));
    if (code !== undefined) parent.append(element("code", "", code.trim() || code));
    else if (href) parent.append(link(href, label));
    else if (strong) parent.append(within("strong", strong));
    else if (soft) parent.append(within("em", soft));
    else parent.append(link(bare, bare));
    text = text.slice(found.index + whole.length);
  }
  parent.append(text);
}

function within(tag, text) {
  const made = element(tag);
  addInline(made, text);
  return made;
}

function link(href, text) {
  const made = element("a", "", text);
  made.href = href;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}
