/** Small drawings for buttons. The button's own label is what is read aloud. */
const draw = (path: string) => () => (
  <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" fill="none" stroke="currentColor" strokeWidth="2" strokeLinecap="round" strokeLinejoin="round">
    <path d={path} />
  </svg>
);

export const Menu = draw("M4 6h16M4 12h16M4 18h16");
export const Plus = draw("M12 5v14M5 12h14");
export const Sliders = draw("M4 7h10m4 0h2M4 17h2m4 0h10M16 4v6M8 14v6");
export const Close = draw("M6 6l12 12M18 6 6 18");
export const Send = draw("M12 19V5m-6 6 6-6 6 6");
export const Stop = draw("M7 7h10v10H7z");
export const More = draw("M12 6v.01M12 12v.01M12 18v.01");
export const Phone = draw("M8 3h8a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM11 18h2");
export const Tablet = draw("M6 3h12a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM12 17v.01");
export const Theme = draw("M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9z");
