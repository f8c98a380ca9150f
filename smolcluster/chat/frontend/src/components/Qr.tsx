/** A QR code: the server's own drawing, as nodes and not as HTML. */
import { useEffect, useRef } from "react";

export function Qr({ svg, label }: { svg: string; label: string }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const drawn = new DOMParser().parseFromString(svg, "text/html").querySelector("svg");
    if (drawn !== null) place.current?.replaceChildren(document.importNode(drawn, true));
  }, [svg]);
  return <div ref={place} className="qr" role="img" aria-label={label} />;
}
