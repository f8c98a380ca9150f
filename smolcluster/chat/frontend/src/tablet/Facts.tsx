/** What is to be known of the work, as a list of terms. */
import { AWAKE, sessionsOf, size } from "./words";
import type { View } from "./view";

export function Facts({ view }: { view: View }) {
  const facts: [string, string][] = [
    ["Model", view.model || "–"],
    ["Layers", view.layers || "–"],
    ["Computed by", view.how || "–"],
    ["Cluster", view.cluster || "–"],
    ["Answers under way", sessionsOf(view.sessions)],
    ["Memory", view.total === 0 ? "–" : `${size(view.total)} of layers, ${size(view.cacheBytes)} of answers`],
    ["Tokens so far", view.tokens.toLocaleString("en")],
    ["Screen", AWAKE[view.awake]],
  ];
  return (
    <dl className="facts">
      {facts.map(([term, told]) => (
        <div key={term}>
          <dt>{term}</dt>
          <dd>{told}</dd>
        </div>
      ))}
    </dl>
  );
}
