/** The machines and the wires between them as a picture, and the same as a table. */
import { useEffect, useMemo, useRef, useState } from "react";
import type { Run, State } from "../api";
import { between, heightFor, labels, LABEL, NODE, places, pulse_s, thickness, type Place } from "../pure/layout";
import { mbps, ms } from "../pure/numbers";
import { linksOf, nodesOf, type SceneLink, type SceneNode } from "../pure/scene";

/** More labels would be a picture of labels: then only what is slow has one, and the table has the rest. */
const MOST_LABELS = 12;
const MOST_LETTERS = 15;

export function Topology({ run, state }: { run: Run; state: State | null }) {
  const holder = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const place = holder.current;
    if (place === null) return;
    const watch = new ResizeObserver(() => setWidth(place.clientWidth));
    watch.observe(place);
    setWidth(place.clientWidth);
    return () => watch.disconnect();
  }, []);
  const nodes = useMemo(() => nodesOf(run, state), [run, state]);
  const links = useMemo(() => linksOf(run, state), [run, state]);
  return (
    <>
      <div ref={holder}>{width > 0 ? <Picture run={run} nodes={nodes} links={links} width={width} over={state?.over ?? true} /> : null}</div>
      {links.length > 0 ? <Links links={links} /> : <p className="empty">One machine: nothing goes over a wire.</p>}
    </>
  );
}

interface PictureProps {
  run: Run;
  nodes: SceneNode[];
  links: SceneLink[];
  width: number;
  over: boolean;
}

function Picture({ run, nodes, links, width, over }: PictureProps) {
  const planned = run.kind === "serving" ? "CHAIN" : (run.shape ?? "MESH");
  const indexOf = (name: string) => nodes.findIndex((node) => node.name === name);
  // In a row, a wire to somebody further on would go through those in between.
  const further = links.some((link) => Math.abs(indexOf(link.a) - indexOf(link.b)) > 1);
  const shape = planned === "CHAIN" && further ? "MESH" : planned;
  const size = { width, height: heightFor(nodes.length, width, shape) };
  const at = places(nodes.length, size, shape);
  const placeOf = (name: string) => at[indexOf(name)];
  const drawn = links.flatMap((link) => {
    const [a, b] = [placeOf(link.a), placeOf(link.b)];
    return a === undefined || b === undefined ? [] : [{ link, line: between(a, b) }];
  });
  const said = drawn.filter(({ link }) => drawn.length <= MOST_LABELS || link.slow);
  const chips = labels(said.map(({ line }) => line), at, size);
  return (
    <svg className="picture" viewBox={`0 0 ${size.width} ${size.height}`} height={size.height} role="img" aria-label={inWords(nodes, links)}>
      {drawn.map(({ link, line }) => (
        <Wire key={`${link.a} ${link.b}`} link={link} line={line} over={over} />
      ))}
      {nodes.map((node, index) => (
        <Node key={node.name} node={node} place={at[index]!} />
      ))}
      {said.map(({ link }, index) => (
        <Chip key={`${link.a} ${link.b}`} link={link} place={chips[index]!} />
      ))}
    </svg>
  );
}

function Wire({ link, line: [a, b], over }: { link: SceneLink; line: [Place, Place]; over: boolean }) {
  const ends = { x1: a.x, y1: a.y, x2: b.x, y2: b.y };
  const wide = thickness(link.mbps);
  const moves = !over && !link.down && link.mbps !== null && link.mbps > 0;
  return (
    <g className={[link.slow ? "slow" : "", link.down ? "down" : ""].join(" ")}>
      <line className="link" {...ends} strokeWidth={wide} />
      {moves ? <line className="pulse" {...ends} style={{ animationDuration: `${pulse_s(link.mbps!).toFixed(2)}s` }} /> : null}
    </g>
  );
}

function Chip({ link, place }: { link: SceneLink; place: Place }) {
  const via = link.gateways.length > 0 ? `via ${cut(link.gateways.join(", "))}` : "";
  const lines = [link.down ? "down" : link.mbps === null ? "" : mbps(link.mbps), link.rtt_ms === null || link.down ? "" : ms(link.rtt_ms), via].filter((text) => text);
  if (lines.length === 0) return null;
  const height = lines.length * 15 + 6;
  return (
    <g className={link.slow || link.down ? "slow" : ""}>
      <rect className="chip" x={place.x - LABEL.width / 2} y={place.y - height / 2} width={LABEL.width} height={height} rx={6} />
      {lines.map((text, index) => (
        <text key={text} className={index === 0 ? "figure" : ""} x={place.x} y={place.y - height / 2 + 15 * (index + 1) - 1} textAnchor="middle">
          {text}
        </text>
      ))}
    </g>
  );
}

function Node({ node, place: { x, y } }: { node: SceneNode; place: Place }) {
  const [left, top] = [x - NODE.width / 2, y - NODE.height / 2];
  const rest = [node.part, node.device].filter((text) => text);
  return (
    <g className={node.tone}>
      <title>{[node.name, node.word, ...rest].join(", ")}</title>
      <rect className="box" x={left} y={top} width={NODE.width} height={NODE.height} rx={10} />
      <circle className="lamp" cx={left + 14} cy={top + 17} r={4.5} />
      <text className="name" x={left + 25} y={top + 22}>
        {cut(node.name)}
      </text>
      <text className="word" x={left + 11} y={top + 38}>
        {cut(node.word, 21)}
      </text>
      <text x={left + 11} y={top + 54}>
        {cut(rest[0] ?? "", 21)}
      </text>
    </g>
  );
}

const cut = (text: string, most = MOST_LETTERS) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

function inWords(nodes: SceneNode[], links: SceneLink[]): string {
  const machines = nodes.map((node) => `${node.name} ${node.word}`).join(", ");
  return `Topology: ${machines}. ${links.length} ${links.length === 1 ? "link" : "links"}, in the table below.`;
}

function Links({ links }: { links: SceneLink[] }) {
  const wires = links.some((link) => link.wire !== "");
  return (
    <div className="wide links" tabIndex={0} role="region" aria-label="Links">
      <table>
        <thead>
          <tr>
            <th scope="col">Link</th>
            <th scope="col" className="number">
              There
            </th>
            <th scope="col" className="number">
              Back
            </th>
            <th scope="col" className="number">
              Round trip
            </th>
            {wires ? <th scope="col">Wire</th> : null}
          </tr>
        </thead>
        <tbody>
          {links.map((link) => (
            <tr key={`${link.a} ${link.b}`}>
              <th scope="row">
                {link.a} → {link.b}
                {link.down ? <span className="bad"> down</span> : link.slow ? <span className="bad"> slow</span> : null}
              </th>
              <td className="number">{link.there === null ? "–" : mbps(link.there)}</td>
              <td className="number">{link.back === null ? "–" : mbps(link.back)}</td>
              <td className="number">{link.rtt_ms === null ? "–" : ms(link.rtt_ms)}</td>
              {wires ? (
                <td className="value">
                  {link.wire}
                  {link.claimed_mbps === null ? "" : `, ${mbps(link.claimed_mbps)} claimed`}
                  {link.gateways.length > 0 ? `, through ${link.gateways.join(", ")}` : ""}
                  {link.encrypted ? ", encrypted" : ""}
                </td>
              ) : null}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
