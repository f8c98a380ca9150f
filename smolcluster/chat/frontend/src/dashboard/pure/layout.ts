/** Where nodes, links and their labels stand in the picture of the topology. Pixels; pure arithmetic. */

export interface Place {
  x: number;
  y: number;
}

export interface Box extends Place {
  width: number;
  height: number;
}

export interface Size {
  width: number;
  height: number;
}

export type Shape = "MESH" | "STAR" | "CHAIN";

export const NODE: Size = { width: 136, height: 62 };
export const LABEL: Size = { width: 92, height: 34 };
const MARGIN = 10;

/** How high the picture is: wide screens have room beside, narrow ones below. */
export function heightFor(count: number, width: number, shape: Shape): number {
  if (count <= 1) return NODE.height + 4 * MARGIN;
  if (shape === "CHAIN") return rowsOf(count, width) * (NODE.height + 56) + 2 * MARGIN;
  return width < NARROW ? count * (NODE.height + 50) : Math.min(520, Math.max(270, 160 + count * 28));
}

/** Narrower pictures have no room for a ring. */
const NARROW = 480;

const columnsOf = (width: number) => Math.max(1, Math.floor((width + 84) / (NODE.width + 104)));
const rowsOf = (count: number, width: number) => Math.ceil(count / columnsOf(width));

/** The middles of so many nodes: a chain in rows that turn at their ends, a star around its first, else a ring. Where it
 * is narrow they stand left and right in turn, so that the lines of neighbours cross nobody.
 */
export function places(count: number, size: Size, shape: Shape): Place[] {
  const middle = { x: size.width / 2, y: size.height / 2 };
  if (count <= 1) return count === 1 ? [middle] : [];
  if (shape === "CHAIN") return chain(count, size);
  if (size.width < NARROW)
    return fitted(Array.from({ length: count }, (_, number) => ({ x: number % 2, y: number })), size);
  const centred = shape === "STAR" && count > 4;
  const around = centred ? count - 1 : count;
  // Two side by side have the label of their link in between.
  const start = around === 2 ? Math.PI : -Math.PI / 2;
  const ring = Array.from({ length: around }, (_, number) => {
    const angle = start + (2 * Math.PI * number) / around;
    return { x: Math.cos(angle), y: Math.sin(angle) };
  });
  return fitted(centred ? [{ x: 0, y: 0 }, ...ring] : ring, size);
}

/** Moved and stretched so that they fill the picture, with room for their boxes. */
function fitted(found: readonly Place[], size: Size): Place[] {
  const spread = (values: number[], room: number, box: number) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const length = Math.max(0, room - box - 2 * MARGIN);
    return values.map((value) => (high - low < 1e-9 ? room / 2 : box / 2 + MARGIN + ((value - low) / (high - low)) * length));
  };
  const x = spread(found.map((place) => place.x), size.width, NODE.width);
  const y = spread(found.map((place) => place.y), size.height, NODE.height);
  return found.map((_, index) => ({ x: x[index]!, y: y[index]! }));
}

function chain(count: number, size: Size): Place[] {
  const columns = columnsOf(size.width);
  const rows = Math.ceil(count / columns);
  const inRow = Math.ceil(count / rows);
  return Array.from({ length: count }, (_, number) => {
    const row = Math.floor(number / inRow);
    const place = row % 2 === 0 ? number % inRow : inRow - 1 - (number % inRow);
    return { x: (size.width * (place + 0.5)) / inRow, y: (size.height * (row + 0.5)) / rows };
  });
}

/** A line from one box's edge to the other's. */
export function between(a: Place, b: Place): [Place, Place] {
  return [edge(a, b), edge(b, a)];
}

function edge(box: Place, towards: Place): Place {
  const [dx, dy] = [towards.x - box.x, towards.y - box.y];
  if (dx === 0 && dy === 0) return box;
  const share = Math.min(NODE.width / 2 / Math.abs(dx || 1e-9), NODE.height / 2 / Math.abs(dy || 1e-9));
  return { x: box.x + dx * share, y: box.y + dy * share };
}

const ALONG = [0.5, 0.4, 0.6, 0.32, 0.68, 0.25, 0.75];

/** Where the labels of these lines stand: on their line, on no node, and on no other label if there is such a place. */
export function labels(lines: readonly [Place, Place][], nodes: readonly Place[], size: Size, label = LABEL): Place[] {
  const taken: Box[] = nodes.map((node) => ({ ...node, ...NODE }));
  return lines.map(([a, b]) => {
    const tried = ALONG.map((share) => inside({ x: a.x + (b.x - a.x) * share, y: a.y + (b.y - a.y) * share }, size, label));
    const best = tried.reduce((one, other) => (covered(other, label, taken) < covered(one, label, taken) ? other : one));
    taken.push({ ...best, ...label });
    return best;
  });
}

const inside = (place: Place, size: Size, label: Size): Place => ({
  x: Math.min(size.width - label.width / 2, Math.max(label.width / 2, place.x)),
  y: Math.min(size.height - label.height / 2, Math.max(label.height / 2, place.y)),
});

/** How many square pixels of it lie on something else. */
function covered(place: Place, label: Size, taken: readonly Box[]): number {
  return taken.reduce((sum, box) => {
    const across = (label.width + box.width) / 2 - Math.abs(place.x - box.x);
    const down = (label.height + box.height) / 2 - Math.abs(place.y - box.y);
    return sum + (across > 0 && down > 0 ? across * down : 0);
  }, 0);
}

/** How thick a line is that carries so much: 1.5 where nothing is measured, up to 7 from 1 Gbit/s on. */
export const thickness = (mbps: number | null): number =>
  mbps === null || mbps <= 0 ? 1.5 : Math.min(7, 1.5 + (5.5 * Math.log10(1 + mbps)) / 3);

/** Seconds that a dash takes along its gap: the more is carried the faster. */
export const pulse_s = (mbps: number): number => Math.max(0.4, 3 - Math.log10(1 + mbps) * 0.85);
