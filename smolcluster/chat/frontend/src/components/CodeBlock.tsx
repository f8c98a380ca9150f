/** Code with its language and a button that copies it. */
import { CopyButton } from "./CopyButton";

export function CodeBlock({ language, text }: { language: string; text: string }) {
  const what = language === "" ? "code" : language;
  return (
    <figure className="code">
      <figcaption>
        <span>{what}</span>
        <CopyButton text={text} label="Copy code" />
      </figcaption>
      {/* Wide code scrolls, also by keyboard. */}
      <pre tabIndex={0} role="region" aria-label={`Code: ${what}`}>
        <code>{text}</code>
      </pre>
    </figure>
  );
}
