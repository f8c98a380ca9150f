/** The window of log lines that is kept, page by page, and which of them are drawn. */

/** Lines in order of time, and the cursors for what is older and what is newer. */
export interface Page<Line extends { id: string }> {
  before: string;
  after: string;
  lines: readonly Line[];
}

export const MOST_LINES = 5000;
/** Live lines come few at a time: they are put together up to so many, since only whole pages are forgotten. */
const TOGETHER = 250;

/** With what is newer. Of too many lines the oldest pages go. */
export function appended<Line extends { id: string }>(pages: readonly Page<Line>[], page: Page<Line>, most = MOST_LINES) {
  const lines = fresh(pages, page.lines);
  const end = pages.at(-1);
  if (end === undefined) return [{ ...page, lines }];
  const joined = end.lines.length + lines.length <= TOGETHER || lines.length === 0;
  const all = joined
    ? [...pages.slice(0, -1), { before: end.before, after: page.after, lines: [...end.lines, ...lines] }]
    : [...pages, { ...page, lines }];
  while (all.length > 1 && count(all) > most) all.shift();
  return all;
}

/** With what is older before it. Of too many lines the newest pages go; they can be had again by the last cursor. */
export function prepended<Line extends { id: string }>(pages: readonly Page<Line>[], page: Page<Line>, most = MOST_LINES) {
  const lines = fresh(pages, page.lines);
  const start = pages[0];
  if (start === undefined) return [{ ...page, lines }];
  const all =
    lines.length === 0 ? [{ ...start, before: page.before }, ...pages.slice(1)] : [{ ...page, lines }, ...pages];
  while (all.length > 1 && count(all) > most) all.pop();
  return all;
}

const count = (pages: readonly Page<{ id: string }>[]) => pages.reduce((sum, page) => sum + page.lines.length, 0);

/** A page may come twice, when a connection broke in its middle. */
function fresh<Line extends { id: string }>(pages: readonly Page<Line>[], more: readonly Line[]): Line[] {
  const known = new Set(pages.flatMap((page) => page.lines.map((line) => line.id)));
  return more.filter((line) => !known.has(line.id));
}

/** How many rows of so many columns a text fills, broken anywhere; letters of East Asia and emoji are two wide. */
export function rowsOf(text: string, columns: number): number {
  if (columns < 1) return 1;
  let [rows, used] = [1, 0];
  for (const letter of text) {
    const wide = widthOf(letter);
    if (used + wide > columns) {
      rows += 1;
      used = 0;
    }
    used += wide;
  }
  return rows;
}

const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Extended_Pictographic}/u;
const widthOf = (letter: string) => (letter < "\u1100" ? 1 : WIDE.test(letter) ? 2 : 1);

/** Where each line begins, in rows; the last one is where all end. */
export function tops(texts: readonly string[], columns: number, extra = 0): number[] {
  const found = [0];
  for (const text of texts) found.push(found.at(-1)! + extra + rowsOf(text, columns));
  return found;
}

/** Which lines are seen in a window of rows, and some on either side: a half-open range. */
export function shown(starts: readonly number[], first: number, rows: number, spare = 12): [number, number] {
  const count = starts.length - 1;
  const low = lineAt(starts, first - spare);
  const high = lineAt(starts, first + rows + spare) + 1;
  return [Math.max(0, low), Math.min(count, high)];
}

/** The line that a row belongs to. */
export function lineAt(starts: readonly number[], row: number): number {
  let [low, high] = [0, Math.max(0, starts.length - 2)];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle]! <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** A text in pieces; every second one is what was looked for. Great and small letters are one. */
export function pieces(text: string, find: string): string[] {
  if (find === "") return [text];
  const [low, sought] = [text.toLowerCase(), find.toLowerCase()];
  // Some letters change their length with their size; then nothing is marked rather than the wrong place.
  if (low.length !== text.length) return [text];
  const found: string[] = [];
  let start = 0;
  for (let at = low.indexOf(sought); at >= 0; at = low.indexOf(sought, at + sought.length)) {
    found.push(text.slice(start, at), text.slice(at, at + sought.length));
    start = at + sought.length;
  }
  return [...found, text.slice(start)];
}
