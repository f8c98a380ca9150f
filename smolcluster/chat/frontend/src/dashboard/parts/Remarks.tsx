/** What is not as it should be, in words. */
import { useRef } from "react";
import { spoken, type Remark } from "../pure/scene";

/** The list may change at every look, as seconds go by; said aloud is each remark once. */
export function Remarks({ remarks }: { remarks: readonly Remark[] }) {
  const said = useRef<ReadonlyMap<string, string>>(new Map());
  said.current = spoken(said.current, remarks);
  return (
    <>
      {remarks.length === 0 ? null : (
        <ul className="remarks" aria-label="What needs attention">
          {remarks.map((remark) => (
            <li key={remark.key} className={`remark ${remark.tone}`}>
              <Warning />
              <p>{remark.text}</p>
            </li>
          ))}
        </ul>
      )}
      <div className="offscreen" role="status">
        {[...said.current].map(([key, text]) => (
          <p key={key}>{text}</p>
        ))}
      </div>
    </>
  );
}

const Warning = () => (
  <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" fill="none" stroke="currentColor" strokeWidth="2" strokeLinecap="round" strokeLinejoin="round">
    <path d="M12 4 2.5 20h19zM12 10v4M12 17v.01" />
  </svg>
);
