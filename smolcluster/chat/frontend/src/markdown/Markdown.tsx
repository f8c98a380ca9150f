/** A model's text as elements. It is made of React's own nodes: there is no way from its words to HTML. */
import { memo, type ReactNode } from "react";
import { CodeBlock } from "../components/CodeBlock";
import { blocks, type Block } from "./blocks";
import { inline, type Inline } from "./inline";

// Quotes and lists within each other.
const DEEPEST = 6;

export function Markdown({ text, depth = 0 }: { text: string; depth?: number }) {
  if (depth > DEEPEST) return <>{text}</>;
  // Blocks only grow at the end, so a place is a good key, and all but the last are the same as in the frame before.
  return blocks(text).map((block, index) => <OneBlock key={index} block={block} depth={depth} />);
}

const OneBlock = memo(
  function OneBlock({ block, depth }: { block: Block; depth: number }): ReactNode {
    switch (block.kind) {
      case "paragraph":
        return <p>{spans(inline(block.text))}</p>;
      case "heading": {
        // The page's own headings are h1 and h2.
        const Heading = `h${Math.min(6, block.level + 2)}` as "h3";
        return <Heading>{spans(inline(block.text))}</Heading>;
      }
      case "code":
        return <CodeBlock language={block.language} text={block.text} />;
      case "quote":
        return (
          <blockquote>
            <Markdown text={block.text} depth={depth + 1} />
          </blockquote>
        );
      case "list": {
        const items = block.items.map((item, index) => (
          <li key={index}>{/\n\s*\S/.test(item) ? <Markdown text={item} depth={depth + 1} /> : spans(inline(item))}</li>
        ));
        return block.ordered ? <ol start={block.start}>{items}</ol> : <ul>{items}</ul>;
      }
      case "table":
        return <Table block={block} />;
      case "rule":
        return <hr />;
    }
  },
  (before, after) => before.block.source === after.block.source && before.depth === after.depth,
);

function Table({ block }: { block: Extract<Block, { kind: "table" }> }) {
  const [head = [], ...rows] = block.rows;
  const style = (index: number) => (block.align[index] ? { textAlign: block.align[index] } : undefined);
  return (
    <div className="wide" tabIndex={0} role="region" aria-label="Table">
      <table>
        <thead>
          <tr>
            {head.map((cell, index) => (
              <th key={index} scope="col" style={style(index)}>
                {spans(inline(cell))}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, number) => (
            <tr key={number}>
              {row.map((cell, index) => (
                <td key={index} style={style(index)}>
                  {spans(inline(cell))}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const spans = (parts: Inline[]): ReactNode => parts.map((part, index) => <Span key={index} part={part} />);

function Span({ part }: { part: Inline }): ReactNode {
  switch (part.kind) {
    case "text":
      return part.text;
    case "code":
      return <code>{part.text}</code>;
    case "strong":
      return <strong>{spans(part.inside)}</strong>;
    case "emphasis":
      return <em>{spans(part.inside)}</em>;
    case "strike":
      return <s>{spans(part.inside)}</s>;
    case "link":
      return (
        <a href={part.href} target="_blank" rel="noopener noreferrer nofollow">
          {spans(part.inside)}
        </a>
      );
    case "break":
      return <br />;
  }
}
