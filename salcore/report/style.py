"""How pages look: one column, light and dark, legible on a phone."""

STYLE = """
:root{--paper:#fbfbfa;--card:#fff;--ink:#1f2933;--muted:#66727e;--grid:#d3d9df;--line:#e3e7ea;
--blue:#2f73c9;--red:#d0553f;--green:#3a9a6b;--warn:#fdf3e0;--warn-line:#e0a83c}
@media (prefers-color-scheme:dark){:root{--paper:#14181d;--card:#1b2128;--ink:#e4e8ec;--muted:#98a4b0;--grid:#39434d;
--line:#2b333c;--blue:#6ea5ea;--red:#ec8068;--green:#63bf8f;--warn:#2c2616;--warn-line:#a47a28}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:48px 0 10px}
h3{font-size:1.05rem;margin:0}
section>h3{margin-top:26px}
p{margin:8px 0;max-width:74ch}
a{color:var(--blue)}
.lead,.muted,figcaption,small{color:var(--muted)}
.lead{font-size:1.05rem;margin-bottom:18px}
small{display:block;font-size:.86em}
.warning{background:var(--warn);border-left:4px solid var(--warn-line);padding:10px 14px;border-radius:4px;
max-width:none}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(310px,1fr));gap:12px;margin:16px 0}
.answer,.sample{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.answer{border-top:3px solid var(--blue)}
.answer.caution{border-top-color:var(--warn-line)}
.answer p{overflow-wrap:anywhere;margin:4px 0 0;font-size:.96rem}
.answer h3{font-size:.98rem}
.answer.wide{grid-column:1/-1}
.answer pre{margin:8px 0 0;background:none}
.sample{margin:14px 0}
.sample>p{margin:2px 0 10px;font-size:.94rem}
.strip{display:grid;grid-template-columns:repeat(7,minmax(0,1fr));gap:12px;margin:10px 0}
.thumbs{display:grid;grid-template-columns:repeat(8,minmax(0,1fr));gap:14px;margin:12px 0}
figure{margin:0}
.picture img{width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;display:block;border-radius:3px}
.picture figcaption{font-size:.84rem;line-height:1.35;margin-top:4px;color:var(--ink)}
.bar{height:7px;border-radius:2px;margin-top:5px}
.ticks{display:flex;justify-content:space-between;font-size:.72rem;color:var(--muted);font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:20px;align-items:start}
.chart{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px}
.chart svg{display:block;width:100%;max-width:540px;height:auto;margin:0 auto}
.chart.wide{margin-bottom:20px}.chart.wide svg{max-width:none}
.chart svg text{font-family:inherit!important}
.chart figcaption{font-size:.88rem;margin-top:6px}
.scroll{overflow-x:auto;margin:10px 0;border:1px solid var(--line);border-radius:8px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
tbody tr:last-child>*{border-bottom:0}
thead th{color:var(--muted);font-weight:600}
.pairs th{font-weight:500;color:var(--muted);width:1%}
.pairs td{white-space:normal;overflow-wrap:anywhere}
.wraps td{white-space:normal}
.wraps td:last-child{min-width:17em;overflow-wrap:anywhere}
.n{text-align:right}
td.n{white-space:pre;color:var(--muted);font-size:.84em;line-height:1.35}
td.n::first-line{color:var(--ink);font-size:1.19em;line-height:1.55}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px;overflow-x:auto;
font-size:.86rem}
details{margin:8px 0}
summary{cursor:pointer;color:var(--blue);padding:4px 0}
@media (max-width:720px){main{padding:18px 14px 40px}h1{font-size:1.5rem}
.strip{grid-template-columns:repeat(3,minmax(0,1fr));gap:12px 10px}
.thumbs{grid-template-columns:repeat(4,minmax(0,1fr))}.answers{grid-template-columns:1fr}
.chart{padding:8px 4px}.chart figcaption{padding:0 8px}th,td{padding:6px 9px}}
@media print{.answer,.sample,.chart{break-inside:avoid}}
""".replace("\n", "")
