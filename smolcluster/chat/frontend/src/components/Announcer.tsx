/** The answer for those who listen: by whole blocks, since word by word nobody could follow. */
import { blocks } from "../markdown/blocks";
import type { AssistantMessage } from "../state/types";

export function Announcer({ message }: { message: AssistantMessage | undefined }) {
  const all = message === undefined ? [] : blocks(message.text);
  // The last block may still grow.
  const whole = message?.state === "writing" ? all.slice(0, -1) : all;
  return (
    <div className="offscreen" role="log" aria-live="polite" aria-label="Answer as it comes" key={message?.id ?? ""}>
      {message?.state === "writing" ? <p>The answer is being written.</p> : null}
      {whole.map((block, index) => (
        <p key={index}>{block.source}</p>
      ))}
      {message?.state === "stopped" ? <p>Stopped.</p> : null}
    </div>
  );
}
