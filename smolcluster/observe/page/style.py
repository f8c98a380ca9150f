"""How the page looks: light and dark as the device prefers, from a phone's width up, and on paper."""

# The colours of lines, in order; those of Okabe and Ito, which the colour-blind tell apart.
LINES = 8
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --dim: #5d6670; --rule: #dde1e6; --box: #f5f6f8;
  --good: #1a7f4b; --bad: #c0392b; --warn: #9a6700;
  --line0: #0072b2; --line1: #d55e00; --line2: #009e73; --line3: #cc79a7; --line4: #b8860b; --line5: #56b4e9;
  --line6: #7b3294; --line7: #666; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --text: #e6e8ea; --dim: #98a2ad; --rule: #2d333a;
  --box: #1c2126; --good: #4cc38a; --bad: #ff7b6b; --warn: #e3b341; --line0: #4aa8ff; --line1: #ff8f4a;
  --line2: #35c99a; --line3: #e79cc6; --line4: #e6c34a; --line5: #8cd0ff; --line6: #c08be0; --line7: #aaa; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: .2rem 0; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .3rem; font-weight: 600; }
p { margin: .4rem 0; } .dim { color: var(--dim); } .number { text-align: right; font-variant-numeric: tabular-nums; }
.completed, .good { color: var(--good); } .failed, .error, .bad { color: var(--bad); }
.stopped, .warning, .straggler, .warn, .leave, .restart { color: var(--warn); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.card { background: var(--box); border-radius: .5rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.15rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; break-inside: avoid; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--dim); font: 11px system-ui, sans-serif; } svg .name { fill: var(--text); font-weight: 600; }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .link { stroke: var(--dim); stroke-width: 1.5; fill: none; }
svg .slow { stroke: var(--bad); stroke-width: 3; } svg .node { fill: var(--box); stroke: var(--dim); }
.wide { max-width: 40rem; }
@media (max-width: 600px) { svg text { font-size: 16px; } svg.wide text { font-size: 17px; } }
.legend { display: flex; flex-wrap: wrap; gap: .2rem .9rem; font-size: .8rem; color: var(--dim); list-style: none;
  margin: .2rem 0 0; padding: 0; }
.legend i { display: inline-block; width: .8rem; height: .25rem; margin-right: .35rem; vertical-align: middle; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
.scroll td, .scroll th { overflow-wrap: normal; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--dim); font-weight: 500; white-space: nowrap; }
th.number, td.number { text-align: right; white-space: nowrap; }
summary { cursor: pointer; color: var(--dim); } pre { background: var(--box); padding: .8rem; border-radius: .5rem;
  overflow-x: auto; font-size: .8rem; } footer { margin-top: 2rem; color: var(--dim); font-size: .85rem; }
@media print { :root { color-scheme: light; --back: #fff; --text: #000; --dim: #444; --rule: #ccc; --box: #f4f4f4; }
  body { max-width: none; padding: 0; font-size: 11px; } details > * { display: block; } .scroll { overflow: visible; }
  section { break-inside: auto; } tr { break-inside: avoid; } }
""" + "".join(f".line{n} {{ stroke: var(--line{n}); fill: none; }} .area{n} {{ fill: var(--line{n}); opacity: .65; }} "
              f".key{n} {{ background: var(--line{n}); }}\n" for n in range(LINES))  # fmt: skip
