/** Markdown as a list of blocks. Each keeps its source, by which an unchanged one is known while others still grow. */

export type Block =
  | { kind: "paragraph" | "quote"; source: string; text: string }
  | { kind: "heading"; source: string; level: number; text: string }
  | { kind: "code"; source: string; language: string; text: string; open: boolean }
  | { kind: "list"; source: string; ordered: boolean; start: number; items: string[] }
  | { kind: "table"; source: string; align: Align[]; rows: string[][] }
  | { kind: "rule"; source: string };
export type Align = "left" | "right" | "center" | undefined;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( *)(?:[-*+]|(\d{1,9})[.)])(?:\s+|$)/;
const QUOTE = /^ {0,3}> ?/;
const DIVIDER = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

export function blocks(text: string): Block[] {
  const lines = text.split("\n");
  const found: Block[] = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at]!;
    if (line.trim() === "") {
      at++;
      continue;
    }
    const [block, next] = fence(lines, at) ?? single(line, at) ?? quote(lines, at) ?? list(lines, at) ?? table(lines, at) ?? paragraph(lines, at);
    found.push(block);
    at = next;
  }
  return found;
}

type Found = [Block, number];

function fence(lines: string[], at: number): Found | null {
  const [, mark, language] = FENCE.exec(lines[at]!) ?? [];
  if (mark === undefined) return null;
  let end = at + 1;
  const closes = (line: string) => line.trim().startsWith(mark) && line.trim().replaceAll(mark[0]!, "") === "";
  while (end < lines.length && !closes(lines[end]!)) end++;
  const open = end >= lines.length;
  const source = lines.slice(at, end + 1).join("\n");
  return [{ kind: "code", source, language: language ?? "", text: lines.slice(at + 1, end).join("\n"), open }, end + 1];
}

function single(line: string, at: number): Found | null {
  const heading = HEADING.exec(line);
  if (heading) return [{ kind: "heading", source: line, level: heading[1]!.length, text: heading[2]! }, at + 1];
  return RULE.test(line) ? [{ kind: "rule", source: line }, at + 1] : null;
}

function quote(lines: string[], at: number): Found | null {
  if (!QUOTE.test(lines[at]!)) return null;
  const end = until(lines, at, (line) => QUOTE.test(line));
  const part = lines.slice(at, end);
  return [{ kind: "quote", source: part.join("\n"), text: part.map((line) => line.replace(QUOTE, "")).join("\n") }, end];
}

/** An item has its further lines indented; those are blocks of their own again. */
function list(lines: string[], at: number): Found | null {
  const first = ITEM.exec(lines[at]!);
  if (first === null) return null;
  const ordered = first[2] !== undefined;
  const base = first[1]!.length;
  const items: string[][] = [];
  let end = at;
  for (; end < lines.length; end++) {
    const line = lines[end]!;
    const item = ITEM.exec(line);
    if (item !== null && item[1]!.length <= base + 1) {
      if ((item[2] !== undefined) !== ordered || RULE.test(line)) break;
      items.push([line.slice(item[0].length)]);
    } else if (line.trim() === "") {
      const next = lines[end + 1];
      if (next === undefined || !(ITEM.test(next) || /^ {2,}\S/.test(next))) break;
      items.at(-1)!.push("");
    } else if (/^\s/.test(line)) items.at(-1)!.push(line.replace(new RegExp(`^ {0,${base + (ordered ? 3 : 2)}}`), ""));
    else if (endsParagraph(line)) break;
    else items.at(-1)!.push(line);
  }
  const source = lines.slice(at, end).join("\n");
  return [{ kind: "list", source, ordered, start: Number(first[2] ?? 1), items: items.map((item) => item.join("\n")) }, end];
}

function table(lines: string[], at: number): Found | null {
  const divider = lines[at + 1];
  if (!lines[at]!.includes("|") || divider === undefined || !divider.includes("-") || !DIVIDER.test(divider)) return null;
  const align = cells(divider).map(
    (cell): Align => (/^:-+:$/.test(cell) ? "center" : cell.endsWith(":") ? "right" : cell.startsWith(":") ? "left" : undefined),
  );
  const head = cells(lines[at]!);
  if (head.length !== align.length) return null;
  const end = until(lines, at + 2, (line) => line.includes("|"));
  const rows = [head, ...lines.slice(at + 2, end).map(cells)].map((row) => align.map((_, index) => row[index] ?? ""));
  return [{ kind: "table", source: lines.slice(at, end).join("\n"), align, rows }, end];
}

function paragraph(lines: string[], at: number): Found {
  const end = until(lines, at + 1, (line) => line.trim() !== "" && !endsParagraph(line));
  const source = lines.slice(at, end).join("\n");
  return [{ kind: "paragraph", source, text: source.trim() }, end];
}

const endsParagraph = (line: string) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

function until(lines: string[], at: number, goes: (line: string) => boolean): number {
  while (at < lines.length && goes(lines[at]!)) at++;
  return at;
}

const cells = (line: string) =>
  line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
