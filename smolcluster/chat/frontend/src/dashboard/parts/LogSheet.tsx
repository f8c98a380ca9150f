/** Log lines, of which only those in sight are in the page: thousands cost no more than a screenful. */
import { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import type { LogLine } from "../api";
import type { LogWindow } from "../live/useLogs";
import { lineAt, pieces, shown, tops } from "../pure/lines";
import { moment } from "../pure/numbers";

interface Props {
  log: LogWindow;
  find: string;
  follow: boolean;
  onFollow: (follow: boolean) => void;
}

/** A letter's width and a row's height, in pixels; where nothing can be measured, usual ones. */
interface Cell {
  width: number;
  height: number;
}

const PADDING = 16;
const LETTERS = 100;

export function LogSheet({ log, find, follow, onFollow }: Props) {
  const holder = useRef<HTMLDivElement>(null);
  const ruler = useRef<HTMLSpanElement>(null);
  const [cell, setCell] = useState<Cell>({ width: 8, height: 20 });
  const [box, setBox] = useState({ width: 0, height: 0 });
  const [scroll, setScroll] = useState(0);
  const { lines } = log;

  useLayoutEffect(() => {
    const place = holder.current!;
    const measure = () => {
      const rect = ruler.current!.getBoundingClientRect();
      if (rect.width > 0) setCell({ width: rect.width / LETTERS, height: rect.height });
      setBox({ width: place.clientWidth, height: place.clientHeight });
    };
    measure();
    const watch = new ResizeObserver(measure);
    watch.observe(place);
    return () => watch.disconnect();
  }, []);

  const columns = Math.floor((box.width - PADDING) / cell.width);
  const starts = useMemo(() => tops(lines.map((line) => metaOf(line) + line.text), columns), [lines, columns]);
  const last = useRef({ lines, starts, scroll: 0 });

  // What is in sight stays where it is when lines come before it, or go.
  useLayoutEffect(() => {
    const place = holder.current!;
    const before = last.current;
    last.current = { ...before, lines, starts };
    if (follow) place.scrollTop = place.scrollHeight;
    else if (before.lines !== lines && before.lines.length > 0) {
      const top = lineAt(before.starts, Math.floor(place.scrollTop / cell.height));
      const inSight = before.lines[top]?.id;
      const now = lines.findIndex((line) => line.id === inSight);
      if (now >= 0) place.scrollTop += (starts[now]! - before.starts[top]!) * cell.height;
    }
    last.current.scroll = place.scrollTop;
    setScroll(place.scrollTop);
  }, [lines, starts, follow, cell.height, box.height]);

  const moved = useCallback(() => {
    const place = holder.current!;
    const up = place.scrollTop < last.current.scroll - 1;
    last.current.scroll = place.scrollTop;
    setScroll(place.scrollTop);
    const left = place.scrollHeight - place.clientHeight - place.scrollTop;
    if (follow && up && left > cell.height) onFollow(false);
    if (!follow && !up && left < 2 && !log.newer) onFollow(true);
    if (log.older && !log.loading && place.scrollTop < place.clientHeight) log.loadOlder();
    if (log.newer && !log.loading && left < place.clientHeight) log.loadNewer();
  }, [follow, onFollow, log, cell.height]);

  // A first page that does not fill the window has nothing to scroll.
  useEffect(() => {
    if (log.older && !log.loading && log.trouble === "" && starts.at(-1)! * cell.height < box.height) log.loadOlder();
  }, [log, starts, cell.height, box.height]);

  const [from, to] = shown(starts, Math.floor(scroll / cell.height), Math.ceil(box.height / cell.height));
  return (
    <div className="logs" ref={holder} tabIndex={0} role="region" aria-label="Log lines" onScroll={moved}>
      <span className="ruler" ref={ruler} aria-hidden="true">
        {"0".repeat(LETTERS)}
      </span>
      <div className="sheet" role="list" style={{ height: `${starts.at(-1)! * cell.height}px` }}>
        {lines.slice(from, to).map((line, index) => (
          <Row key={line.id} line={line} find={find} top={starts[from + index]! * cell.height} height={(starts[from + index + 1]! - starts[from + index]!) * cell.height} />
        ))}
      </div>
    </div>
  );
}

function Row({ line, find, top, height }: { line: LogLine; find: string; top: number; height: number }) {
  return (
    <div role="listitem" className={`logline ${line.level ?? ""}`} style={{ top: `${top}px`, height: `${height}px` }}>
      <span className="meta">{metaOf(line)}</span>
      {pieces(line.text, find).map((piece, index) => (index % 2 === 1 ? <mark key={index}>{piece}</mark> : piece))}
    </div>
  );
}

/** When, and who: the supervisor of a machine has no rank. */
function metaOf(line: LogLine): string {
  const when = line.time === null ? "" : `${moment(line.time)} `;
  return `${when}${line.node}${line.rank === null || line.rank === undefined ? "" : `/${line.rank}`} `;
}
