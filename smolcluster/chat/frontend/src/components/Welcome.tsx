/** What a first visit is told, and what an empty chat begins with. */
import type { Config } from "../api/types";

const STARTS = ["Explain how a bicycle stays upright.", "Write a Python function that reverses a list.", "Tell me a story about a lighthouse."];

interface Props {
  config: Config | null;
  first: boolean;
  onStart: (text: string) => void;
}

export function Welcome({ config, first, onStart }: Props) {
  return (
    <section className="welcome">
      <h1>{config ? `Talk to ${config.model}` : "smolcluster"}</h1>
      <p>
        A language model whose layers lie on several of your own computers. The strip above shows them: each token passes
        all of them, from left to right.
      </p>
      {first ? (
        <ul>
          <li>What you write goes to your cluster and nowhere else. Chats are kept in this browser only.</li>
          <li>Settings change how it writes: how long, how daring, and with a seed the same again.</li>
          <li>If a computer is lost in mid-answer, the strip says which one and what to do.</li>
        </ul>
      ) : null}
      {config !== null && !config.chat ? (
        <p>
          <strong>This model only continues texts:</strong> it was not taught to answer. It goes on from what you wrote last.
        </p>
      ) : null}
      <div className="starts">
        {(config !== null && !config.chat ? ["Once upon a time", "The sea was"] : STARTS).map((text) => (
          <button key={text} type="button" onClick={() => onStart(text)}>
            {text}
          </button>
        ))}
      </div>
    </section>
  );
}
