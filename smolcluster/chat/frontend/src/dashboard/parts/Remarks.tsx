/** What is not as it should be, in words. */
import type { Remark } from "../pure/scene";

export function Remarks({ remarks }: { remarks: readonly Remark[] }) {
  return (
    <div role="status" aria-label="What needs attention">
      {remarks.length === 0 ? null : (
        <ul className="remarks">
          {remarks.map((remark) => (
            <li key={remark.key} className={`remark ${remark.tone}`}>
              <Warning />
              <p>{remark.text}</p>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

const Warning = () => (
  <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" fill="none" stroke="currentColor" strokeWidth="2" strokeLinecap="round" strokeLinejoin="round">
    <path d="M12 4 2.5 20h19zM12 10v4M12 17v.01" />
  </svg>
);
