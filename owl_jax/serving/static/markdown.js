// Markdown of answers, as elements: paragraphs, headings, lists, code, bold and italic text.
//
// Every text becomes a text node, and there are no links or pictures: nothing that a model writes can
// be HTML or ask for an address.

import { element } from "./dom.js";

const LONGEST = 50_000; // characters; more is shown as it is
const FENCE = /^\s*(```+|~~~+)\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const CODE = /(`+)(?!`)(.+?)(?<!`)\1(?!`)/;
const BOLD = /\*\*(?=\S)(.+?)(?<=\S)\*\*/;
const ITALIC = /(?<![\w*])\*(?=[^\s*])([^*]*[^\s*])\*(?![\w*])/;
const INLINE = new RegExp([CODE, BOLD, ITALIC].map((each) => each.source).join("|"), "g");

/** The elements of a text. */
export function rendered(text) {
  if (text.length > LONGEST) return [element("pre", {}, text)];
  return blocks(text.split("\n"));
}

function blocks(lines) {
  const made = [];
  let at = 0;
  while (at < lines.length) {
    const fence = FENCE.exec(lines[at]);
    const heading = HEADING.exec(lines[at]);
    let end = at + 1;
    if (fence) {
      const isEnd = (line) => line.trim().startsWith(fence[1]) && !line.trim().slice(fence[1].length);
      while (end < lines.length && !isEnd(lines[end])) end += 1;
      const code = element("code", {}, lines.slice(at + 1, end).join("\n"));
      made.push(element("pre", { "data-language": fence[2] || null, tabindex: "0" }, code));
      end += 1;
    } else if (heading) {
      // The page's own headings are above those of an answer.
      made.push(element(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2])));
    } else if (ITEM.test(lines[at])) {
      while (end < lines.length && continuesList(lines, end)) end += 1;
      made.push(list(lines.slice(at, end)));
    } else if (lines[at].trim()) {
      while (end < lines.length && lines[end].trim() && !beginsBlock(lines[end])) end += 1;
      made.push(element("p", {}, ...withBreaks(lines.slice(at, end))));
    }
    at = end;
  }
  return made;
}

function beginsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || ITEM.test(line);
}

/** A list goes on over items, what is indented, and one empty line before either. */
function continuesList(lines, at) {
  const follows = (line) => line !== undefined && (ITEM.test(line) || /^\s{2,}\S/.test(line));
  return follows(lines[at]) || (!lines[at].trim() && follows(lines[at + 1]));
}

function list(lines) {
  const [, margin, mark] = ITEM.exec(lines[0]);
  const isOrdered = /\d/.test(mark);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= margin.length + 1) items.push([item[3]]);
    else items.at(-1).push(line.replace(/^ {1,4}/, ""));
  }
  const start = isOrdered && Number.parseInt(mark, 10) !== 1 ? Number.parseInt(mark, 10) : null;
  const children = items.map(([first, ...rest]) =>
    element("li", {}, ...inline(first), ...(rest.some((line) => line.trim()) ? blocks(rest) : [])),
  );
  return element(isOrdered ? "ol" : "ul", { start }, ...children);
}

function withBreaks(lines) {
  return lines.flatMap((line, index) => [...(index ? [element("br")] : []), ...inline(line)]);
}

function inline(text) {
  const made = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    made.push(text.slice(end, match.index));
    const [all, , code, bold, italic] = match;
    if (code !== undefined) made.push(element("code", {}, code.replace(/^ (.*) $/, "$1")));
    else if (bold !== undefined) made.push(element("strong", {}, ...inline(bold)));
    else made.push(element("em", {}, ...inline(italic)));
    end = match.index + all.length;
  }
  made.push(text.slice(end));
  return made.filter((each) => each !== "");
}
