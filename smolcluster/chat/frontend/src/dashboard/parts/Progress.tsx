/** How far it is, and the figures that people ask for first. */
import type { Run, State } from "../api";
import { clock, short, whole } from "../pure/numbers";

export function Progress({ run, state }: { run: Run; state: State | null }) {
  if (state === null) return null;
  const figures = run.kind === "serving" ? servingFigures(state) : trainingFigures(run, state);
  const { progress, step, total_steps } = state;
  return (
    <section className="card progress" aria-label="Progress">
      {progress === null || progress === undefined ? null : (
        <>
          <div className="row">
            <strong>
              step {step === null || step === undefined ? "–" : whole(step)}
              {total_steps ? ` of ${whole(total_steps)}` : ""}
            </strong>
            <span className="quiet">
              {Math.floor(progress * 100)} % · {clock(state.elapsed_s)} so far
              {state.over ? "" : ` · ${clock(state.eta_s)} to go`}
            </span>
          </div>
          <progress max={1} value={progress} aria-label="Steps done" />
        </>
      )}
      <dl className="tiles">
        {figures.map(([name, value, unit]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              {value} {unit ? <small>{unit}</small> : null}
            </dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

type Figure = [name: string, value: string, unit?: string];
const known = (value: number | null | undefined, say: (value: number) => string) =>
  value === null || value === undefined ? "–" : say(value);

function trainingFigures(run: Run, state: State): Figure[] {
  const nodes = state.nodes ?? [];
  const here = nodes.filter((node) => ["starting", "running", "completed", "stopped"].includes(node.state)).length;
  const figures: Figure[] = [
    ["Loss", known(state.loss, (loss) => loss.toFixed(4))],
    ["Validation", known(state.val_loss, (loss) => loss.toFixed(4))],
    ["Speed", known(state.tokens_per_s, short), `${run.counts}/s`],
    [state.over ? "Machines at the end" : "Machines", `${here} of ${nodes.length}`],
  ];
  if (state.restarts) figures.push(["Restarts", whole(state.restarts)]);
  if (state.slowest && !state.over) figures.push(["Slowest", state.slowest.node]);
  return figures;
}

function servingFigures({ serving, elapsed_s }: State): Figure[] {
  return [
    ["Speed", known(serving?.tokens_per_s, short), "tokens/s"],
    ["Being answered", known(serving?.active, whole)],
    ["Waiting", known(serving?.waiting, whole)],
    ["Requests", known(serving?.requests, whole)],
    ["Failed", known(serving?.failed, whole)],
    ["Tokens", known(serving?.tokens, short)],
    ["Up", clock(elapsed_s)],
  ];
}
