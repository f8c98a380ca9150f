/** Markdown within a line, as a tree. What is not understood stays text: nothing is ever HTML. */

export type Inline =
  | { kind: "text"; text: string }
  | { kind: "code"; text: string }
  | { kind: "strong" | "emphasis" | "strike"; inside: Inline[] }
  | { kind: "link"; href: string; inside: Inline[] }
  | { kind: "break" };

// In the order in which they are tried at each place.
const RULES: [RegExp, (found: RegExpExecArray, depth: number) => Inline | null][] = [
  [/\\([\\`*_{}[\]()#+\-.!~|<>])/y, ([, sign]) => ({ kind: "text", text: sign! })],
  [/(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/y, ([, , text]) => ({ kind: "code", text: text!.replace(/^ (.*) $/s, "$1") })],
  [/\*\*(?=\S)([\s\S]*?\S)\*\*(?!\*)/y, ([, text], depth) => ({ kind: "strong", inside: inline(text!, depth) })],
  [/__(?=\S)([\s\S]*?\S)__(?![\w_])/y, ([, text], depth) => ({ kind: "strong", inside: inline(text!, depth) })],
  [/~~(?=\S)([\s\S]*?\S)~~/y, ([, text], depth) => ({ kind: "strike", inside: inline(text!, depth) })],
  [/\*(?=[^\s*])([^*]*[^\s*])\*(?!\*)/y, ([, text], depth) => ({ kind: "emphasis", inside: inline(text!, depth) })],
  [/_(?=[^\s_])([^_]*[^\s_])_(?!\w)/y, ([, text], depth) => ({ kind: "emphasis", inside: inline(text!, depth) })],
  [/\[([^\]]*)\]\(\s*([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\s*\)/y, ([, text, to], depth) => link(to!, inline(text!, depth))],
  [/<(https?:\/\/[^\s<>]+)>/y, ([, to]) => link(to!, [{ kind: "text", text: to! }])],
  [/https?:\/\/[^\s<>"'`)\]]*[^\s<>"'`)\].,;:!?*_]/y, ([to]) => link(to, [{ kind: "text", text: to }])],
  [/(?: {2,}|\\)\n/y, () => ({ kind: "break" })],
];
const BEGINS = /[\\`*_~[<h ]/;
// Signs within signs within signs: nobody means that.
const DEEPEST = 8;

export function inline(text: string, depth = 0): Inline[] {
  const parts: Inline[] = [];
  let plain = "";
  let at = 0;
  while (at < text.length) {
    const found = depth < DEEPEST && BEGINS.test(text[at]!) ? first(text, at, depth) : null;
    if (found === null) {
      plain += text[at++];
      continue;
    }
    if (plain !== "") parts.push({ kind: "text", text: plain });
    plain = "";
    parts.push(found.part);
    at = found.end;
  }
  if (plain !== "") parts.push({ kind: "text", text: plain });
  return parts;
}

function first(text: string, at: number, depth: number): { part: Inline; end: number } | null {
  const inWord = at > 0 && /\w/.test(text[at - 1]!);
  for (const [pattern, make] of RULES) {
    // snake_case_names are no emphasis, and no address begins within a word.
    if (inWord && /[_h]/.test(text[at]!)) return null;
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    const part = found === null ? null : make(found, depth + 1);
    if (found !== null && part !== null) return { part, end: at + found[0].length };
  }
  return null;
}

/** Only to the web and to mail: a model may write any address, and a javascript: one would run here. */
function link(href: string, inside: Inline[]): Inline | null {
  return /^(https?:\/\/|mailto:)/i.test(href) ? { kind: "link", href, inside } : null;
}
