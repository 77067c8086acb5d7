"""How the page looks, in light and in dark, and the few lines of script that sort a table.

Charts take their colours from here by class; see `charts`.
"""

STYLE = """
:root{color-scheme:light dark;--paper:#f4f6f9;--card:#fff;--edge:#dde3ea;--ink:#17212e;--soft:#566173;
--main:#1f5fbf;--warm:#c2410c;--good:#11703f;--good-paper:#e3f4ea;--hit:#1f5fbf;--miss:#c2410c;--on:#fff}
@media (prefers-color-scheme:dark){:root{--paper:#0e1217;--card:#161c24;--edge:#2b3541;--ink:#e7ecf2;--soft:#9eabba;
--main:#77adff;--warm:#ff9f63;--good:#6fdc9f;--good-paper:#12301f;--hit:#2c68cc;--miss:#c24a10;--on:#fff}}
*{box-sizing:border-box}
html{scroll-padding-top:3.2rem}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main,footer{max-width:70rem;margin:0 auto;padding:0 1rem}
nav{position:sticky;top:0;z-index:2;background:var(--card);border-bottom:1px solid var(--edge)}
nav div{max-width:70rem;margin:0 auto;padding:.55rem 1rem;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
nav b{margin-right:auto}
a{color:var(--main)}
h2{font-size:1.7rem;margin:2.2rem 0 .6rem;letter-spacing:-.01em}
h3{font-size:1.15rem;margin:0 0 .6rem}
h4{font-size:.95rem;margin:0 0 .4rem}
p{margin:.3rem 0}
.card{background:var(--card);border:1px solid var(--edge);border-radius:12px;padding:1.1rem 1.25rem;margin:0 0 1rem}
.lead{font-size:1.15rem;line-height:1.45}
.soft,figcaption,footer,dt{color:var(--soft);font-size:.875rem}
dt{font-size:inherit}
.unseen{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11.5rem,1fr));gap:.8rem 1.5rem;margin:1rem 0 0}
.tiles b{display:block;font-size:1.75rem;line-height:1.2;font-variant-numeric:tabular-nums}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.4rem 2rem}
p+.two{margin-top:1rem}
.wide{overflow-x:auto}
.tall{max-height:24rem;overflow:auto}
figure{margin:0;min-width:0}
figcaption{margin-bottom:.35rem}
figcaption b{color:var(--ink);font-size:.95rem;display:block}
hr{border:0;border-top:1px solid var(--edge);margin:1.3rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .6rem;text-align:left;border-bottom:1px solid var(--edge);white-space:nowrap}
th{color:var(--soft);font-weight:600;background:var(--card)}
.tall th{position:sticky;top:0}
.right{text-align:right}
tr.best td{background:var(--good-paper)}
th button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer}
th button::after{content:" \\2195";opacity:.45}
th[aria-sort=ascending] button::after{content:" \\2191";opacity:1}
th[aria-sort=descending] button::after{content:" \\2193";opacity:1}
.badge{border:1px solid;background:var(--good-paper);color:var(--good);border-radius:99px;padding:.1rem .6rem;
font-weight:600}
dl{font-size:.9rem;display:grid;grid-template-columns:fit-content(65%) 1fr;gap:.25rem 1rem;margin:0}
dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
code{font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
summary{cursor:pointer;font-weight:600;padding:.3rem 0;margin-top:.6rem}
footer{padding:1rem 1rem 3rem}
.plot{display:block;max-width:100%;background:#fff;border-radius:8px}
.whole{grid-column:1/-1}
.chart{display:block;width:100%;height:auto;max-width:31rem;font-family:inherit}
td .chart{width:150px}
.key{white-space:nowrap;display:inline-block}
.key svg{width:14px;height:12px;vertical-align:-1px;margin:0 .25rem 0 .7rem;overflow:visible}
.tick{fill:var(--soft)}.end{text-anchor:end}.mid,.count{text-anchor:middle}
.count{fill:var(--ink)}.count.on{fill:var(--on)}
.grid,.axis{stroke:var(--edge);fill:none}
.line,.whisker{fill:none;stroke-width:2;stroke-linejoin:round}
.line.s0{stroke:var(--warm);stroke-dasharray:5 4}.line.s1,.whisker{stroke:var(--main)}
.dot.s0{fill:var(--warm)}.dot.s1{fill:var(--main)}
.line.best{stroke:var(--good);stroke-width:1.5}.ring{fill:none;stroke:var(--good);stroke-width:2}
.mark{stroke-width:2;fill:none}.complete{fill:var(--main)}.pruned{stroke:var(--soft)}.failed{stroke:var(--warm)}
.track{fill:var(--edge);opacity:.55}.bar,.hit{fill:var(--hit)}.miss{fill:var(--miss)}.none{fill:var(--edge);opacity:.35}
@media (max-width:30rem){main,footer{padding:0 .5rem}.card{padding:.9rem}}
@media print{nav{display:none}.tall{max-height:none}.card{break-inside:avoid-page}}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.sort ?? "";
      const compare = (a, b) => a === "" || b === "" ? (a === "") - (b === "")
        : (down ? -1 : 1) * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b))));
    });
  });
}
"""
