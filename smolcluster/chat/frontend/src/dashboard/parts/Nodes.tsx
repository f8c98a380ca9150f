/** Every machine: how it does, what its time goes into, and why it is as it is. */
import type { NodeNow, Run, State, Steps } from "../api";
import { bytes, mb, ms, short, whole } from "../pure/numbers";
import { toneOfNode, wordOf } from "../pure/words";

/** The parts of a step, in the order and the colours of the charts. */
export const PARTS = [
  ["compute_ms", "computing", 2],
  ["communication_ms", "communicating", 0],
  ["waiting_ms", "waiting for others", 1],
  ["data_ms", "waiting for samples", 3],
] as const;

export function Nodes({ run, state }: { run: Run; state: State | null }) {
  const nodes = state?.nodes ?? [];
  if (nodes.length === 0) return <p className="empty">No machine has been heard of yet.</p>;
  const longest = Math.max(...nodes.map((node) => node.steps?.step_ms ?? 0));
  return (
    <ul className="nodes">
      {nodes.map((node) => (
        <Machine key={node.node} node={node} run={run} longest={longest} stage={state?.serving?.stages?.find((stage) => stage.node === node.node)} />
      ))}
    </ul>
  );
}

interface MachineProps {
  node: NodeNow;
  run: Run;
  longest: number;
  stage: NonNullable<State["serving"]>["stages"] extends (infer One)[] | undefined ? One | undefined : never;
}

function Machine({ node, run, longest, stage }: MachineProps) {
  const tone = toneOfNode(node);
  const { steps } = node;
  const facts = [
    node.step === null || node.step === undefined ? "" : `step ${whole(node.step)}`,
    steps && steps.tokens_per_s > 0 ? `${short(steps.tokens_per_s)} ${run.counts}/s` : "",
    stage?.ms_per_token === null || stage?.ms_per_token === undefined ? "" : `${ms(stage.ms_per_token)} per token`,
    stage?.sessions === null || stage?.sessions === undefined ? "" : `${stage.sessions} ${stage.sessions === 1 ? "session" : "sessions"}`,
    steps && (steps.bytes_sent > 0 || steps.bytes_received > 0) ? `${bytes(steps.bytes_sent)} out, ${bytes(steps.bytes_received)} in a step` : "",
    steps?.staleness ? `staleness ${short(steps.staleness)}` : "",
    node.memory_mb === null || node.memory_mb === undefined ? "" : mb(node.memory_mb),
    node.cpu_percent === null || node.cpu_percent === undefined ? "" : `CPU ${Math.round(node.cpu_percent)} %`,
    node.temperature_c === null || node.temperature_c === undefined ? "" : `${node.temperature_c.toFixed(0)} °C`,
    node.restarts ? restarts(node) : "",
  ].filter((fact) => fact !== "");
  const why = node.why || (node.state === "running" || node.state === "completed" ? "" : node.reason) || "";
  return (
    <li className={`machine ${tone}`}>
      <div className="row">
        <h3>{node.node}</h3>
        <span className={`pill ${tone === "running" ? "good" : tone}`}>
          <span className="dot" aria-hidden="true" />
          {wordOf(node)}
        </span>
      </div>
      {why === "" ? null : <p className="why">{why}</p>}
      {steps && steps.step_ms > 0 ? <Split steps={steps} longest={longest} /> : null}
      {facts.length > 0 ? <p className="factline">{facts.join(" · ")}</p> : null}
    </li>
  );
}

/** How many, and why the last one was: who comes an hour later wants to know whose fault it was. */
function restarts({ restarts, restart_reason }: NodeNow): string {
  const many = restarts === 1 ? "1 restart" : `${restarts} restarts`;
  if (!restart_reason) return many;
  return restarts === 1 ? `${many}: ${restart_reason}` : `${many}, the last: ${restart_reason}`;
}

/** What a step's time goes into, as a bar as long as the step. */
function Split({ steps, longest }: { steps: Steps; longest: number }) {
  const parts = PARTS.map(([key, name, colour]) => ({ name, colour, ms: Math.max(0, steps[key] ?? 0) })).filter((part) => part.ms > 0);
  const whole_ms = Math.max(steps.step_ms, parts.reduce((sum, part) => sum + part.ms, 0));
  const share = 100 / Math.max(longest, whole_ms);
  let start = 0;
  return (
    <>
      <svg className="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
        {parts.map((part) => {
          const x = start;
          start += part.ms * share;
          return <rect key={part.name} className={`key${part.colour}`} x={x} y={0} width={part.ms * share} height={10} />;
        })}
      </svg>
      <p className="factline">
        <strong>{ms(steps.step_ms)} a step</strong>:{" "}
        {parts.map((part, index) => (
          <span key={part.name}>
            {index > 0 ? ", " : ""}
            <span className={`key key${part.colour}`} aria-hidden="true" /> {ms(part.ms)} {part.name}
          </span>
        ))}
      </p>
    </>
  );
}
